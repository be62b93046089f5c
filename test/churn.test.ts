// Churn end to end: namespaces and addresses change hands, pods come and go while nobody looks, and nothing is left or mistaken for another.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { NodePlace, PodPlace } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, serve, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import {
  captureOf,
  descriptorsOf,
  flowsOf,
  memoriesOf,
  type PodDocument,
  podDocument,
  statusOf,
  threadsOf,
  untilClean,
  untilPod,
  untilReady,
} from "./pods.ts";
import { watchWire } from "./wire.ts";

const SWAPS = 24;
const CYCLES = 50;
/** The engine merges the deltas that it keeps when there are more than 64; beside them are base, settings, pods and identities. */
const MOST_MEMORIES = 64 + 16;
let mesh: TestMesh;
let server: string;

before(async () => {
  mesh = await startTestMesh();
  server = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
});
after(() => mesh.stop());

/** Writes the pods' documents into one file, so that they change at once, and makes those that are not there yet. */
async function place(file: string, pods: readonly PodDocument[]): Promise<PodPlace[]> {
  mesh.document(file, pods.map(podDocument).join("\n---\n"));
  const names = pods.map(({ namespace = "legacy", name }) => `${namespace}/${name}`);
  if (!names.every((name) => mesh.lab.pods.some((known) => known.name === name))) await mesh.lab.reconcile();
  return names.map((name) => mesh.lab.pod(name));
}

/** Runs while the node has no daemon; ends when the next one answers. */
async function withoutDaemon(node: NodePlace, act: () => Promise<void>): Promise<void> {
  node.kill("launcher", "SIGSTOP"); // it would start another
  try {
    node.kill("daemon");
    await until("the daemon is gone", () => node.pidsOf("daemon").length === 0);
    await act();
  } finally {
    node.kill("launcher", "SIGCONT");
  }
  await until("a daemon answers", () => mesh.lab.status(node.name));
}

test("a pod whose network namespace was replaced is sent nothing in plaintext meanwhile, and is captured again", async () => {
  const { lab } = mesh;
  const [phoenix] = await place("phoenix.yaml", [{ name: "phoenix", ips: ["10.99.2.40", "fd99:2::40"], node: "node-b", mesh: "enabled" }]);
  assert.ok(phoenix !== undefined);
  let { netnsCookie: old } = await untilReady(lab, phoenix);
  await serve(phoenix);
  const [client, to] = [lab.pod("app/client"), `${address(phoenix)}:${SERVER_PORT}`];
  await until("it is served", async () => (await tryConnect(client, to)).ok);
  const leaked = await watchWire(lab.node("node-a"), SERVER_PORT);
  for (let times = 0; times < 3; times++) {
    const reborn = await lab.rebootPod("legacy/phoenix");
    await serve(reborn); // at once: whoever reaches it without the mesh would be answered
    const tries = until("it is served in its new namespace", async () => (await tryConnect(client, to)).ok);
    const status = await untilPod(lab, reborn, "is ready anew", ({ phase, netnsCookie }) => phase === "ready" && netnsCookie !== old);
    old = status.netnsCookie;
    await tries;
    const out = await tryConnect(reborn, `${address(lab.pod("app/neighbour"))}:${SERVER_PORT}`);
    assert.ok(out.ok, out.error);
  }
  assert.equal(await leaked(), 0, "the application's port must never be seen between the nodes");
});

test(`an address that changes hands ${SWAPS} times never carries the rights or the name of its last owner`, async (t) => {
  const { lab } = mesh;
  const [X, Y] = ["10.99.1.50", "10.99.1.51"];
  const pods = (swapped: boolean): PodDocument[] => [
    { name: "alpha", namespace: "app", ips: [swapped ? Y : X] },
    { name: "beta", namespace: "app", ips: [swapped ? X : Y] },
  ];
  const [alpha, beta] = await place("swap.yaml", pods(false));
  assert.ok(alpha !== undefined && beta !== undefined);
  t.after(async () => {
    for (const file of ["only-alpha.yaml", "swap.yaml"]) mesh.document(file, null);
    await until("the policy is gone", async () => (await tryConnect(lab.pod("app/client"), server)).ok);
  });
  mesh.document(
    "only-alpha.yaml",
    JSON.stringify({
      apiVersion: "security.istio.io/v1",
      kind: "AuthorizationPolicy",
      metadata: { name: "only-alpha", namespace: "app" },
      spec: {
        selector: { matchLabels: { app: "server" } },
        action: "ALLOW",
        rules: [{ from: [{ source: { principals: ["cluster.local/ns/app/sa/alpha"] } }] }],
      },
    }),
  );
  const links = new Map<PodPlace, string>();
  for (const pod of [alpha, beta]) {
    const [route] = JSON.parse(await lab.underlay.run(["ip", "-n", "node-a", "-j", "route", "show", address(pod)])) as { dev: string }[];
    links.set(pod, route?.dev ?? "");
  }
  const move = async (pod: PodPlace, to: string, from: string): Promise<void> => {
    await pod.run(["sh", "-c", `ip addr add ${to}/32 dev eth0 && ip addr del ${from}/32 dev eth0`]);
    await lab.underlay.run(["ip", "-n", "node-a", "route", "replace", `${to}/32`, "dev", links.get(pod) ?? ""]);
  };
  await Promise.all([untilReady(lab, alpha), untilReady(lab, beta)]);
  let served = 0;
  const alphaServed = async (): Promise<boolean> => {
    const { ok } = await tryConnect(alpha, server);
    if (ok) served++;
    return ok;
  };
  const betaRefused = async (): Promise<void> => assert.ok(!(await tryConnect(beta, server)).ok, "beta was served");
  await until("the policy is in force", async () => !(await tryConnect(beta, server)).ok);
  await until("alpha is served", alphaServed);
  for (let swap = 1; swap <= SWAPS; swap++) {
    const swapped = swap % 2 === 1;
    const [a, b] = swapped ? [Y, X] : [X, Y];
    // Documents before addresses and addresses before documents, in turn.
    const documents = (): Promise<unknown> => place("swap.yaml", pods(swapped));
    if (swap % 4 < 2) await documents();
    await Promise.all([move(alpha, a, b), move(beta, b, a)]);
    const early = betaRefused();
    if (swap % 4 >= 2) await documents();
    await early;
    await Promise.all([until(`alpha is served at ${a}`, alphaServed), betaRefused()]);
    await betaRefused();
  }
  const inbound = async () =>
    (await flowsOf(lab, "node-b")).filter(
      ({ direction, phase, source }) => direction === "inbound" && phase === "opened" && [X, Y].includes(source.address),
    );
  const proven = (name: string) => `spiffe://cluster.local/ns/app/sa/${name}`;
  await until("every connection was told", async () => (await inbound()).filter(({ verdict }) => verdict === "allowed").length >= served);
  const flows = await inbound();
  assert.equal(flows.filter(({ verdict }) => verdict === "allowed").length, served);
  assert.deepEqual(
    new Set(flows.filter(({ verdict }) => verdict === "allowed").map(({ source }) => source.identity)),
    new Set([proven("alpha")]),
  );
  assert.deepEqual(
    flows.filter(({ source }) => source.identity === proven("alpha") && source.pod === "beta"),
    [],
  );
  assert.deepEqual(
    flows.filter(({ source }) => source.identity === proven("beta") && source.pod === "alpha"),
    [],
  );
  const outbound = (await flowsOf(lab, "node-a")).filter(({ direction }) => direction === "outbound");
  for (const [name, other] of [
    ["alpha", "beta"],
    ["beta", "alpha"],
  ] as const) {
    const uid = (await lab.status("node-a")).pods.find((pod) => pod.name === name)?.uid;
    const own = outbound.filter(({ podUid }) => podUid === uid);
    assert.ok(own.length > SWAPS, `${own.length} flows of ${name}`);
    assert.deepEqual(
      own.filter(({ source }) => source.pod === other || source.identity === proven(other)),
      [],
    );
  }
});

test("what changed while the daemon was away is made true on its return, and live connections do not notice", async () => {
  const { lab } = mesh;
  const node = lab.node("node-a");
  const doc = (name: string, last: number, meshed: boolean): PodDocument => ({
    name,
    ips: [`10.99.1.${last}`, `fd99:1::${last}`],
    ...(meshed ? { mesh: "enabled" } : {}),
  });
  const [deleted, joining, leaving] = await place("away.yaml", [
    doc("deleted", 60, true),
    doc("joining", 61, false),
    doc("leaving", 62, true),
  ]);
  assert.ok(deleted !== undefined && joining !== undefined && leaving !== undefined);
  await Promise.all([untilReady(lab, deleted), untilReady(lab, leaving)]);
  const held = await Promise.all([joining, leaving].map((pod) => hold(pod, server, 2)));
  await withoutDaemon(node, async () => {
    await place("away.yaml", [doc("joining", 61, true), doc("leaving", 62, false)]);
    assert.ok((await tryConnect(deleted, server)).ok, "a captured pod goes on without its daemon");
  });
  await untilReady(lab, joining);
  await untilPod(lab, leaving, "is leaving", ({ phase }) => phase === "leaving");
  await untilClean(lab, deleted);
  assert.equal(await statusOf(lab, deleted), undefined);
  assert.deepEqual(await Promise.all(held.map((each) => each.alive())), [2, 2]);
  for (const each of held) each.close();
  await untilClean(lab, leaving);

  await lab.stopNode("node-a"); // and once more with the engine away too
  mesh.document("away.yaml", null);
  assert.notEqual((await captureOf(joining)).table, "");
  await lab.startNode("node-a");
  await untilClean(lab, joining);
});

test(`after ${CYCLES} times in and out of the mesh, two pods at once, daemon and engine hold what they held before`, async () => {
  const { lab } = mesh;
  await lab.ready();
  const node = lab.node("node-a");
  const doc = (meshed: boolean): PodDocument[] =>
    [70, 71].map((last) => ({ name: `cycle${last}`, ips: [`10.99.1.${last}`, `fd99:1::${last}`], ...(meshed ? { mesh: "enabled" } : {}) }));
  const pods = await place("cycles.yaml", doc(false));
  // What is over is forgotten in a second instead of in two minutes, so that what is not can be told from it.
  const timeouts = ["time_wait", "close", "fin_wait", "last_ack", "close_wait"].map(
    (state) => `net.netfilter.nf_conntrack_tcp_timeout_${state}=1`,
  );
  for (const pod of pods) await pod.run(["sysctl", "-qw", ...timeouts]);
  const cycle = async (connect: boolean): Promise<void> => {
    await place("cycles.yaml", doc(true));
    await Promise.all(pods.map((pod) => untilReady(lab, pod)));
    if (connect) for (const pod of pods) assert.ok((await tryConnect(pod, server)).ok);
    await place("cycles.yaml", doc(false));
    await Promise.all(pods.map((pod) => untilPod(lab, pod, "is out", ({ phase, desired }) => phase === "absent" && desired === "absent")));
  };
  const processes = [...node.pidsOf("daemon"), ...node.pidsOf("engine"), ...node.pidsOf("worker")];
  assert.equal(processes.length, 3);
  // The kernel sweeps up what has expired when it likes; a table of entries without any time left is an empty one.
  const tracked = async (pod: PodPlace): Promise<number> =>
    (await pod.run(["cat", "/proc/net/nf_conntrack"])).split("\n").filter((line) => Number(line.split(/\s+/)[4]) > 0).length;
  const held = async (): Promise<number[]> => [
    ...processes.flatMap((pid) => [descriptorsOf(pid), threadsOf(pid)]),
    ...(await Promise.all(pods.map(tracked))),
  ];
  await cycle(true);
  for (const pod of pods) await untilClean(lab, pod);
  const start = await until("conntrack forgets the first cycle", async () => {
    const now = await held();
    return now.slice(-2).every((count) => count === 0) && now;
  });
  for (let i = 0; i < CYCLES; i++) await cycle(i % 5 === 0);
  for (const pod of pods) await untilClean(lab, pod);
  let now: number[] = [];
  await until(
    "descriptors, threads and conntrack are back where they were",
    async () => {
      now = await held();
      return now.every((count, index) => count <= (start[index] ?? 0));
    },
    15_000,
    () => `at the start [${start}], now [${now}]: descriptors and threads of daemon, keeper, worker; conntrack of both pods`,
  );
  for (const pid of processes) assert.ok(memoriesOf(pid) <= MOST_MEMORIES, `${memoriesOf(pid)} sealed memories`);
  assert.deepEqual([...node.pidsOf("daemon"), ...node.pidsOf("engine"), ...node.pidsOf("worker")], processes);
});
