// The ways out when everything that decides is gone: `trackbed-cni rescue` without API server and daemon, `trackbed bypass` without daemons.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { execute } from "../command.ts";
import { statusOn } from "../daemon.ts";
import { capture, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";

const NODE = "node1";
const SYSTEM = "trackbed-system";
const RESCUE = "/opt/cni/bin/trackbed-cni rescue";
const CONFLIST = "/etc/cni/net.d/00-trackbed.conflist";
/** API server, kubelet, containers and captures come back one after the other. */
const BACK_MS = 180_000;

let c: Cluster;
let shop: Shop;
before(async () => {
  c = await cluster();
  shop = await openShop(c, "rescue", { labels: { "trackbed.dev/mesh": "enabled" } });
  await shop.captured();
});
after(() => shop?.remove());

describe("with API server and daemon gone", { concurrency: false }, () => {
  let path: string;
  let url: string;
  /** As a person on the node would try it: nobody needs the API for this. */
  const fetched = (): Promise<string> => c.onNode(NODE, `nsenter --net=${path} -- curl -sf --max-time 5 ${url}`);

  before(async () => {
    url = podUrl(await shop.podOn("web", "node2"));
    ({ path } = await c.podNetns("rescue", (await shop.podOn("client", NODE)).metadata.name));
    assert.match(await fetched(), new RegExp(MARKER));
  });
  after(async () => {
    await c.program("start", "cp", "kube-apiserver");
    await c.program("start", NODE, "kubelet");
    await waitFor("the API server is back", () => c.kubectl("get", "--raw", "/readyz"), BACK_MS);
  });

  test("rescue refuses while a daemon answers, and says what to do", async () => {
    await assert.rejects(c.onNode(NODE, RESCUE), /a daemon answers at .*trackbed unenrol.*--force/);
    await c.onNode(NODE, `test -e ${CONFLIST}`);
    assert.match(await fetched(), new RegExp(MARKER));
  });

  test("the node's pods are closed, not open, when everything of the mesh on it is gone", async () => {
    await c.program("stop", "cp", "kube-apiserver");
    await c.program("stop", NODE, "kubelet"); // or it would start them again by itself
    await c.onNode(NODE, "pkill -9 -f '[/]app/daemon.js'; pkill -9 -x trackbed-engine; true");
    await waitFor("nothing of the mesh runs", async () => {
      const left = await c.onNode(NODE, "pgrep -f '[/]app/daemon.js'; pgrep -x trackbed-engine; true");
      return left.trim() === "";
    });
    await assert.rejects(fetched(), "a captured pod without an engine speaks to nobody");
  });

  test("rescue frees the node: its pods speak again, in clear, and no rule or configuration of the mesh is left", async () => {
    const said = await c.onNode(NODE, RESCUE);
    assert.match(said, /removed {2}the CNI configuration/);
    assert.match(said, new RegExp(`removed {2}the rules in .*${path.slice(path.lastIndexOf("/") + 1)}`));
    assert.match(said, /this node is free of Trackbed/);
    assert.match(await fetched(), new RegExp(MARKER));
    const rules =
      "for f in /run/netns/*; do nsenter --net=$f sh -c 'nft list tables; ip rule; ip -6 rule; ip route show table 100 2>/dev/null'; done";
    const left = `${await c.onNode(NODE, `${rules}; true`)}${await c.onNode(NODE, "nft list tables")}`;
    assert.doesNotMatch(left, /trackbed|fwmark/);
    await assert.rejects(c.onNode(NODE, `test -e ${CONFLIST}`));
    assert.match(await c.onNode(NODE, RESCUE), /this node is free of Trackbed/, "a second time there is nothing to remove");
  });

  test("when API server, kubelet and daemon come back the node is in the mesh again, and no pod was restarted", async () => {
    await c.program("start", "cp", "kube-apiserver");
    await c.program("start", NODE, "kubelet");
    await waitFor("the API server is back", () => c.kubectl("get", "--raw", "/readyz"), BACK_MS);
    await waitFor("the configuration is back", () => c.onNode(NODE, `test -e ${CONFLIST}`).then(() => true), BACK_MS);
    await waitFor("the node is back", async () => (await rules()).includes("15001"), BACK_MS);
    // The pods' conditions are still those of before: the daemon that is new has the first word.
    await waitFor(
      "the daemon has its pods in the mesh",
      async () => {
        const own = (await statusOn(c, NODE)).pods.filter(({ namespace }) => namespace === shop.namespace);
        return own.length > 0 && own.every(({ phase }) => phase === "ready");
      },
      BACK_MS,
    );
    await shop.captured();
    assert.match(await fetched(), new RegExp(MARKER));
    for (const { status } of await shop.pods()) assert.ok(status?.containerStatuses?.every(({ restartCount }) => restartCount === 0));
  });

  const rules = (): Promise<string> => c.onNode(NODE, `nsenter --net=${path} -- nft list ruleset`);
});

describe("with the daemons gone", { concurrency: false }, () => {
  const ask = (...args: readonly string[]) => execute(trackbed.argv(...args), { env: trackbed.env(c.settings) });
  const select = (value: string | null): Promise<string> =>
    c.kubectl(
      ...["-n", SYSTEM, "patch", "daemonset/trackbed-daemon", "--type=merge", "-p"],
      JSON.stringify({ spec: { template: { spec: { nodeSelector: { "trackbed.test/nowhere": value } } } } }),
    );
  const daemons = async (): Promise<number> =>
    (await c.get<List>("pods", "-n", SYSTEM)).items.filter(({ metadata }) => metadata.name.startsWith("trackbed-daemon")).length;

  test("a bypass is taken note of, changes nothing until a daemon is back, and then holds until it is ended", async () => {
    await select("true");
    await waitFor("no daemon is left", async () => (await daemons()) === 0);
    try {
      const { code, stderr } = await ask("bypass", "rescue", "--for", "30m");
      assert.equal(code, 0, stderr);
      for (const { metadata } of await shop.pods()) assert.match(await c.inPod("rescue", metadata.name, "nft list ruleset"), /15001/);
      assert.match(await shop.get(NODE, podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
    } finally {
      await select(null);
    }
    await c.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/trackbed-daemon", `--timeout=${BACK_MS / 1000}s`);
    await waitFor("the pods are out of the mesh", async () => (await shop.pods()).every((pod) => capture(pod)?.status !== "True"), BACK_MS);
    assert.match(await shop.get(NODE, podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
    assert.equal((await ask("bypass", "rescue", "--end")).code, 0);
    await shop.captured();
  });
});
