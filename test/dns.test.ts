// Names and service addresses as a meshed pod uses them: what the mesh answers itself, what goes on to the server that was asked, and what
// happens when that server is gone.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { paths } from "#contract/tables.ts";
import type { FlowLine } from "#inspect/flow.ts";
import { OUTSIDE_NAME } from "../src/lab/lab.ts";
import { get } from "../src/lab/mesh.ts";
import { until } from "../src/lab/until.ts";
import { address, startTestMesh, type TestMesh } from "./mesh.ts";
import type { Query } from "./programs/query.ts";
import { type Agent, startAgent } from "./programs/remote.ts";

const PORT = 9100;
const SERVFAIL = 2;
const REFUSED = 5;
/** Resolvers ask again after 5 s: what comes later is not heard. */
const RESOLVER_MS = 5000;
const PROMPT_MS = 1000;
const TRANSPORTS = ["udp", "tcp"] as const;

// Only the mesh knows these: the lab's own DNS server is never told.
const TALK = { v4: "10.96.99.20", v6: "fd96:99::20" };
const FOUR = "10.96.99.21";
const SERVICES = `apiVersion: v1
kind: Service
metadata: { name: talk, namespace: app }
spec: { clusterIPs: ["${TALK.v4}", "${TALK.v6}"], selector: { app: server }, ports: [{ name: tcp, port: 80, targetPort: ${PORT} }] }
---
apiVersion: v1
kind: Service
metadata: { name: four, namespace: app }
spec: { clusterIPs: ["${FOUR}"], selector: { app: server }, ports: [{ name: tcp, port: 80, targetPort: ${PORT} }] }
---
apiVersion: v1
kind: Service
metadata: { name: headless, namespace: app }
spec: { clusterIP: None, clusterIPs: ["None"], selector: { app: server }, ports: [{ name: tcp, port: ${PORT} }] }
`;
const FULL_NAME = "talk.app.svc.cluster.local";

let mesh: TestMesh;
let client: Agent;
let server: Agent;

before(async () => {
  mesh = await startTestMesh();
  [client, server] = (await Promise.all(["app/client", "app/server"].map((pod) => startAgent(mesh.lab.pod(pod))))) as [Agent, Agent];
  await server.listen(PORT);
  mesh.document("services.yaml", SERVICES);
  const known = async (name: string): Promise<boolean> => (await ask(name, "A", "udp")).addresses.length > 0;
  await until("the mesh knows the services", async () => (await known(FULL_NAME)) && (await known("headless.app.svc.cluster.local")));
});
after(() => mesh?.stop());

const upstream = (family: 4 | 6 = 4): string => mesh.lab.underlay.ips.find((ip) => ip.includes(":") === (family === 6)) ?? "";
const ask = (name: string, type: Query["type"], transport: Query["transport"], from = upstream()): ReturnType<Agent["query"]> =>
  client.query({ server: from, name, type, transport });

/** The client reaches the server through this name or address: bytes both ways. Who does not is shown with what the mesh says of it. */
async function reach(from: Agent, host: string, port: number): Promise<string> {
  try {
    return await exchange(from, host, port);
  } catch (cause) {
    const { lab } = mesh;
    const flows = await Promise.all(
      lab.nodes.map(({ runDirectory }) => flowLines(runDirectory).catch((error: unknown) => [String(error)])),
    );
    const last = flows.map((lines) => lines.slice(-3).join("\n")).join("\n");
    throw new Error(`${from.pod.name} to ${host} port ${port}: ${String(cause)}\n${last}\n${lab.tailLogs(40)}`, { cause });
  }
}

const flowLines = async (runDirectory: string): Promise<string[]> =>
  (await get({ socketPath: join(runDirectory, paths.adminSocket) }, "/v1/flows")).trim().split("\n");

async function exchange(from: Agent, host: string, port: number): Promise<string> {
  const opened = await from.connect(host, port);
  await opened.write(host);
  const answered = opened.read(7);
  const refused = answered.then(({ end }) => assert.fail(`${host}: ${end} instead of an answer`));
  const accepted = await Promise.race([server.accept(PORT), refused]);
  refused.catch(() => undefined); // once accepted, the answer itself is looked at
  assert.equal((await accepted.read(host.length)).text, host);
  await accepted.write("welcome");
  assert.equal((await answered).text, "welcome", host);
  await opened.finish();
  await accepted.finish();
  assert.equal(accepted.address, opened.address, `${host}: the server sees its client's address`);
  return opened.address;
}

test("service addresses, the pod's own and every name of the service lead to the server", async () => {
  const { lab } = mesh;
  const started = Date.now();
  for (const host of [TALK.v4, TALK.v6]) await reach(client, host, 80);
  for (const family of [4, 6] as const) await reach(client, address(lab.pod("app/server"), family), PORT);
  for (const host of [FULL_NAME, "talk.app.svc", "talk.app", "talk"]) await reach(client, host, 80);
  await reach(client, "headless.app", PORT);
  const services = await until("all nine flows", async () => {
    const lines = await flowLines(lab.node("node-a").runDirectory);
    const flows = lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
    const ours = flows.filter(
      ({ phase, direction, start }) => phase === "closed" && direction === "outbound" && Date.parse(start) >= started,
    );
    return ours.length >= 9 && ours.filter(({ source }) => source.pod === "client").map(({ service }) => service);
  });
  assert.equal(services.filter((service) => service === `app/${FULL_NAME}`).length, 6, String(services));
});

test("a pod reaches itself through its own service", async () => {
  for (const host of [TALK.v4, TALK.v6]) await reach(server, host, 80);
});

test("the mesh answers its names itself, A and AAAA, over UDP and TCP, whichever server is asked", async () => {
  for (const transport of TRANSPORTS)
    for (const from of [upstream(4), upstream(6), "192.0.2.53"]) {
      const what = `${transport} ${from}`;
      const a = await ask(FULL_NAME, "A", transport, from);
      assert.deepEqual([a.rcode, a.addresses, a.from], [0, [TALK.v4], from], what);
      const aaaa = await ask(FULL_NAME, "AAAA", transport, from);
      assert.deepEqual([aaaa.rcode, aaaa.addresses, aaaa.from], [0, [TALK.v6], from], what);
      assert.ok(a.ms < PROMPT_MS, `${what}: ${a.ms} ms`);
    }
});

test("a service without an address of the asked family has an empty answer, a headless one its pods' addresses", async () => {
  const four = await ask("four.app.svc.cluster.local", "AAAA", "udp");
  assert.deepEqual([four.rcode, four.addresses], [0, []]);
  const pod = mesh.lab.pod("app/server");
  for (const [type, family] of [
    ["A", 4],
    ["AAAA", 6],
  ] as const) {
    const { rcode, addresses } = await ask("headless.app.svc.cluster.local", type, "udp");
    assert.deepEqual([rcode, addresses], [0, [address(pod, family)]]);
  }
});

test("a name outside the mesh is answered by the very server that the pod asked", async () => {
  const outsider = mesh.lab.pod("legacy/outsider");
  const listen = outsider.ips.map((ip) => `--listen-address=${ip}`);
  const quiet = ["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file", "--user=root"];
  const own = { v4: "192.0.2.7", v6: "2001:db8::7" };
  const answers = [own.v4, own.v6].map((ip) => `--address=/${OUTSIDE_NAME}/${ip}`);
  const other = outsider.spawn(["dnsmasq", ...quiet, "--bind-interfaces", ...listen, ...answers]);
  other.stderr?.resume();
  await until("the other DNS server listens", async () => (await outsider.run(["ss", "-Hlun", "sport", "=", ":53"])).includes(":53"));
  for (const transport of TRANSPORTS) {
    for (const family of [4, 6] as const) {
      const [first, second] = [upstream(family), address(outsider, family)];
      const expected = { A: [upstream(4), own.v4], AAAA: [upstream(6), own.v6] } as const;
      for (const type of ["A", "AAAA"] as const) {
        const [known, otherwise] = [await ask(OUTSIDE_NAME, type, transport, first), await ask(OUTSIDE_NAME, type, transport, second)];
        const what = `${transport} ${type} over IPv${family}`;
        assert.deepEqual([known.rcode, known.addresses, known.from], [0, [expected[type][0]], first], what);
        assert.deepEqual([otherwise.rcode, otherwise.addresses, otherwise.from], [0, [expected[type][1]], second], what);
      }
    }
    assert.equal((await ask("nobody.example", "A", transport)).rcode, REFUSED, "what the server refuses stays refused");
  }
  other.kill("SIGKILL");
});

test("a pod outside the mesh does not get the mesh's answers", async () => {
  const { code } = await mesh.lab.pod("legacy/outsider").exec(["getent", "ahosts", FULL_NAME]);
  assert.notEqual(code, 0);
});

test("a server that is silent ends in SERVFAIL before a resolver's time is up, while mesh names are answered at once", async () => {
  mesh.lab.signalDns("SIGSTOP");
  try {
    const waiting = Promise.all(TRANSPORTS.map((transport) => ask(OUTSIDE_NAME, "A", transport)));
    const own = await ask(FULL_NAME, "A", "udp");
    assert.deepEqual([own.rcode, own.addresses], [0, [TALK.v4]]);
    assert.ok(own.ms < PROMPT_MS, `${own.ms} ms`);
    await reach(client, "talk", 80);
    for (const { rcode, ms } of await waiting) {
      assert.equal(rcode, SERVFAIL);
      assert.ok(ms < RESOLVER_MS, `${ms} ms`);
    }
  } finally {
    mesh.lab.signalDns("SIGCONT");
  }
  assert.deepEqual((await ask(OUTSIDE_NAME, "A", "udp")).addresses, [upstream()]);
});

// The last one: the server does not come back.
test("a server that is gone is told as SERVFAIL at once, while mesh names are answered", async () => {
  mesh.lab.signalDns("SIGKILL");
  await until("the server is gone", async () => !(await mesh.lab.underlay.run(["ss", "-Hlun", "sport", "=", ":53"])).includes(":53"));
  for (const transport of TRANSPORTS) {
    const answer = await ask(OUTSIDE_NAME, "A", transport);
    assert.equal(answer.rcode, SERVFAIL, transport);
    assert.ok(answer.ms < PROMPT_MS, `${transport}: ${answer.ms} ms`);
    assert.deepEqual((await ask(FULL_NAME, "AAAA", transport)).addresses, [TALK.v6]);
  }
  await reach(client, "talk.app", 80);
});
