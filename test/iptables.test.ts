// A pod on a node without nftables: the same capture by iptables-legacy, from running connections to names, drift and leaving.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, test } from "node:test";
import type { PodPlace } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { flowsOf, podDocument, untilPod } from "./pods.ts";
import { type Agent, startAgent } from "./programs/remote.ts";

const skip =
  spawnSync("unshare", ["-n", "--", "iptables-legacy-save"]).status === 0
    ? false
    : "iptables-legacy is not there, or this kernel does not have it";
const WALKER = { name: "walker", ips: ["10.99.1.30", "fd99:1::30"] };
const IDENTITY = "spiffe://cluster.local/ns/legacy/sa/walker";
let mesh: TestMesh;
let client: Agent;

before(async () => {
  if (skip !== false) return;
  process.env["TRACKBED_REDIRECT"] = "iptables-legacy"; // the daemon's option by another way
  mesh = await startTestMesh();
  client = await startAgent(mesh.lab.pod("app/client"));
});
after(() => mesh?.stop());

const saved = async (pod: PodPlace): Promise<string> => {
  const texts = await Promise.all(["iptables-legacy-save", "ip6tables-legacy-save"].map((program) => pod.exec([program])));
  return texts.map(({ stdout }) => stdout).join("");
};
const server = (family: 4 | 6): string => {
  const ip = address(mesh.lab.pod("app/server"), family);
  return `${family === 6 ? `[${ip}]` : ip}:${SERVER_PORT}`;
};
const proven = async (): Promise<number> =>
  (await flowsOf(mesh.lab, "node-b")).filter(
    ({ phase, direction, source }) => phase === "opened" && direction === "inbound" && source.identity === IDENTITY,
  ).length;

test("no table of nftables is made, and TCP of both families is carried under the pod's name", { skip }, async () => {
  const pod = mesh.lab.pod("app/client");
  assert.match(await saved(pod), /-A OUTPUT -j TRACKBED_OUT_NAT[\s\S]*-A OUTPUT -j TRACKBED_OUT_NAT/);
  assert.doesNotMatch((await pod.exec(["nft", "list", "tables"])).stdout, /trackbed/);
  const seen = async (from: string): Promise<boolean> =>
    (await flowsOf(mesh.lab, "node-b")).some(
      ({ direction, source }) =>
        direction === "inbound" && source.identity === "spiffe://cluster.local/ns/app/sa/client" && source.address === from,
    );
  for (const family of [4, 6] as const) {
    assert.ok((await tryConnect(pod, server(family))).ok, server(family));
    await until("the server's node saw who it was", () => seen(address(pod, family)));
  }
});

test("names are answered over UDP and TCP, IPv4 and IPv6, again and again from one socket's port", { skip }, async () => {
  mesh.document(
    "named.yaml",
    `apiVersion: v1\nkind: Service\nmetadata: { name: talk, namespace: app }\nspec: { clusterIPs: ["10.96.99.20"], selector: { app: server }, ports: [{ name: tcp, port: 80, targetPort: 9100 }] }\n`,
  );
  const servers = mesh.lab.underlay.ips;
  assert.equal(servers.length, 2);
  const name = "talk.app.svc.cluster.local";
  await until("the name is known", async () => {
    const { addresses } = await client.query({ server: servers[0] ?? "", name, type: "A", transport: "udp" });
    return addresses.length > 0;
  });
  for (const from of servers) {
    for (const transport of ["udp", "tcp"] as const) {
      for (let i = 0; i < 3; i++)
        assert.deepEqual(
          (await client.query({ server: from, name, type: "A", transport })).addresses,
          ["10.96.99.20"],
          `${from} ${transport}`,
        );
    }
  }
});

test("a running pod goes in, keeps what it has, and leaves nothing behind", { skip }, async () => {
  const { lab } = mesh;
  mesh.document("walker.yaml", podDocument(WALKER));
  await lab.reconcile();
  const pod = lab.pod("legacy/walker");
  const plain = await hold(pod, server(4), 2);
  mesh.document("walker.yaml", podDocument({ ...WALKER, mesh: "enabled" }));
  await untilPod(lab, pod, "is ready and counts 2 that are not meshed", ({ phase, notMeshed }) => phase === "ready" && notMeshed === 2);
  assert.equal(await plain.alive(), 2, "connections from before the capture");
  const captured = await hold(pod, server(4), 2);
  await until("the server saw the new connections as the pod's", async () => (await proven()) === 2);

  // iptables-legacy sends no notice: the daemon's own look finds it.
  const whole = await saved(pod);
  const rules = (text: string): string => text.replaceAll(/^#.*|\[\d+:\d+\]/gm, "");
  await pod.exec(["iptables-legacy", "-t", "nat", "-F"]);
  await until("the rules are back", async () => rules(await saved(pod)) === rules(whole));
  assert.equal(await captured.alive(), 2, "captured connections over a repair");

  mesh.document("walker.yaml", podDocument(WALKER));
  await untilPod(lab, pod, "is leaving", ({ phase }) => phase === "leaving");
  assert.deepEqual([await captured.alive(), await plain.alive()], [2, 2]);
  for (const each of [captured, plain]) each.close();
  await until("nothing is left", async () => {
    const routing = (await Promise.all(["-4", "-6"].map((family) => pod.exec(["ip", family, "rule"]))))
      .map(({ stdout }) => stdout)
      .join("");
    return !/TRACKBED/.test(await saved(pod)) && !/lookup 100/.test(routing);
  });
});
