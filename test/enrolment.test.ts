// Enrolment end to end: a running pod goes in and out without losing a connection, its rules come back whoever takes them away, and nobody
// else's are touched.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ports } from "#contract/tables.ts";
import type { PodPlace } from "../src/lab/api.ts";
import { get } from "../src/lab/mesh.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import {
  captureOf,
  explain,
  flowsOf,
  listenersOf,
  NOTHING,
  type PodDocument,
  podDocument,
  statusOf,
  untilClean,
  untilPod,
  untilReady,
} from "./pods.ts";

/** From the edit to the rules as they were: the claim of the design. */
const REPAIRED_MS = 1000;
/** A repair starts about as many programs as this many looks at the rules: what a busy machine adds to the claim. */
const LOOKS_OF_A_REPAIR = 6;
const walker: PodDocument = { name: "walker", ips: ["10.99.1.30", "fd99:1::30"] };
const WALKER = "spiffe://cluster.local/ns/legacy/sa/walker";
let mesh: TestMesh;
let server: string;

before(async () => {
  mesh = await startTestMesh();
  server = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
});
after(() => mesh.stop());

/** Writes the pod's document, makes it where it is not there yet, and waits until the daemon knows what it asks for. */
async function place(pod: PodDocument): Promise<PodPlace> {
  mesh.document(`${pod.name}.yaml`, podDocument(pod));
  const name = `${pod.namespace ?? "legacy"}/${pod.name}`;
  if (!mesh.lab.pods.some((known) => known.name === name)) await mesh.lab.reconcile();
  const made = mesh.lab.pod(name);
  await untilPod(mesh.lab, made, "is known", ({ desired }) => (desired === "enrolled") === (pod.mesh === "enabled"));
  return made;
}

/** Inbound connections of the server that prove to come from this identity, or from none. */
const seenByServer = async (identity: string | null, from: string): Promise<number> =>
  (await flowsOf(mesh.lab, "node-b")).filter(
    ({ phase, direction, source }) =>
      phase === "opened" && direction === "inbound" && source.identity === identity && source.address === from,
  ).length;

test("a running pod goes in, out, in again and out, and keeps every connection it has", async () => {
  const { lab } = mesh;
  const pod = await place(walker);
  const from = address(pod);
  const plain = await hold(pod, server, 2);

  await place({ ...walker, mesh: "enabled" });
  await untilPod(lab, pod, "is ready and counts 2 that are not meshed", ({ phase, notMeshed }) => phase === "ready" && notMeshed === 2);
  assert.equal(await plain.alive(), 2, "connections from before the capture");
  assert.equal(await seenByServer(WALKER, from), 0);
  const captured = await hold(pod, server, 3);
  await until("the server saw the new connections as the pod's", async () => (await seenByServer(WALKER, from)) === 3);
  await untilPod(lab, pod, "carries 3 connections", ({ connections }) => connections === 3);

  await place(walker);
  await untilPod(lab, pod, "is leaving", ({ phase }) => phase === "leaving");
  assert.equal(await captured.alive(), 3, "captured connections of a pod that left");
  assert.equal(await plain.alive(), 2);
  const before = await seenByServer(null, from);
  const direct = await hold(pod, server, 1);
  await until("the server saw a plain connection", async () => (await seenByServer(null, from)) === before + 1);

  await place({ ...walker, mesh: "enabled" });
  await untilPod(lab, pod, "is ready and counts 3 that are not meshed", ({ phase, notMeshed }) => phase === "ready" && notMeshed === 3);
  assert.deepEqual([await captured.alive(), await plain.alive(), await direct.alive()], [3, 2, 1]);
  assert.ok((await tryConnect(pod, server)).ok);
  await until("the server saw a fourth meshed connection", async () => (await seenByServer(WALKER, from)) === 4);

  await place(walker);
  await untilPod(lab, pod, "is leaving", ({ phase }) => phase === "leaving");
  assert.deepEqual([await captured.alive(), await plain.alive(), await direct.alive()], [3, 2, 1]);
  for (const each of [captured, plain, direct]) each.close();
  await untilClean(lab, pod);
});

const EDITS: readonly { readonly what: string; readonly edit: readonly string[]; readonly process: string | null }[] = [
  { what: "a rule is added", edit: ["nft", "insert rule inet trackbed out_nat tcp dport 9000 accept"], process: "nft" },
  { what: "an IPv4 rule is removed", edit: ["ip", "-4", "rule", "del", "pref", "32764"], process: null },
  {
    what: "the engine's IPv6 rule is removed",
    edit: ["ip", "-6", "rule", "del", "fwmark", "0x539/0xfff", "oif", "lo", "pref", "32764"],
    process: null,
  },
  { what: "an IPv6 route is removed", edit: ["ip", "-6", "route", "flush", "table", "100"], process: null },
  { what: "an IPv4 route is removed", edit: ["ip", "-4", "route", "flush", "table", "100"], process: null },
  { what: "the loopback device goes down and up", edit: ["sh", "-c", "ip link set lo down; ip link set lo up"], process: null },
  { what: "the table is flushed", edit: ["nft", "flush table inet trackbed"], process: "nft" },
  { what: "the table is deleted", edit: ["nft", "delete table inet trackbed"], process: "nft" },
  { what: "the whole ruleset is flushed", edit: ["nft", "flush ruleset"], process: "nft" },
];

/** Drifts whose process was told; a look for another reason may find the change before its notice comes. */
let named = 0;

for (const { what, edit, process: changer } of EDITS) {
  test(`when ${what}, the rules are back within a second and live connections go on`, async () => {
    const { lab } = mesh;
    const pod = await place({ ...walker, mesh: "enabled" });
    await untilReady(lab, pod);
    const drifts = async (): Promise<string[]> =>
      (await explain(lab, pod)).steps.filter(({ step }) => step === "drift").map(({ time }) => time);
    const held = await hold(pod, server, 2);
    const known = await drifts();
    const looked = performance.now();
    const planned = await captureOf(pod);
    const allowed = REPAIRED_MS + LOOKS_OF_A_REPAIR * (performance.now() - looked);
    const edited = performance.now();
    await pod.run(edit);
    await until("the rules are as planned", async () => JSON.stringify(await captureOf(pod)) === JSON.stringify(planned));
    const took = performance.now() - edited;
    assert.ok(took < allowed, `${took.toFixed(0)} of ${allowed.toFixed(0)} ms`);
    await untilReady(lab, pod);
    assert.equal(await held.alive(), 2);
    held.close();
    await until("the drift is told", async () => (await drifts()).at(-1) !== known.at(-1));
    const told = (await explain(lab, pod)).steps.filter(({ step }) => step === "drift").at(-1);
    assert.equal(told?.result, "E_CAPTURE_RULES_DIFFER");
    const [, by] = /^by (\S+) \(process \d+\): /.exec(told.reason) ?? [];
    if (changer !== null && by !== undefined) {
      assert.equal(by, changer);
      named++;
    }
    assert.ok((await tryConnect(pod, server)).ok);
  });
}

test("who changed the rules is told", () => assert.ok(named >= 2, `${named} of ${EDITS.filter(({ process }) => process !== null).length}`));

test("two pods that only differ in annotations: what is excluded is never captured, and capture=outbound leaves inbound alone", async () => {
  const { lab } = mesh;
  const exempt = await place({
    name: "exempt",
    ips: ["10.99.1.31", "fd99:1::31"],
    mesh: "enabled",
    annotations: { "trackbed.dev/exclude-outbound-ports": "9000" },
  });
  const gateway = await place({
    name: "gateway",
    ips: ["10.99.1.32", "fd99:1::32"],
    mesh: "enabled",
    annotations: { "trackbed.dev/capture": "outbound", "trackbed.dev/exclude-outbound-cidrs": "10.99.2.11/32" },
  });
  await Promise.all([untilReady(lab, exempt), untilReady(lab, gateway)]);
  assert.ok((await tryConnect(exempt, server)).ok);
  await until("the server saw it as nobody's", async () => (await seenByServer(null, address(exempt))) === 1);
  assert.ok((await tryConnect(gateway, server)).ok);
  await until(
    "the server saw the other as the pod's",
    async () => (await seenByServer("spiffe://cluster.local/ns/legacy/sa/gateway", address(gateway))) === 1,
  );
  assert.ok(!(await listenersOf(gateway)).includes(ports.inboundPlain));
  assert.doesNotMatch((await captureOf(gateway)).table, /redirect to :15006/);
  assert.match((await captureOf(exempt)).table, /redirect to :15006/);
  const flows = await flowsOf(lab, "node-a");
  const flowsFrom = async (pod: PodPlace): Promise<number> => {
    const uid = (await statusOf(lab, pod))?.uid;
    return flows.filter(({ podUid, phase }) => podUid === uid && phase === "opened").length;
  };
  assert.deepEqual([await flowsFrom(exempt), await flowsFrom(gateway)], [0, 1]);
});

test("a pod that another mesh captures is never touched, and says whose it is", async () => {
  const { lab } = mesh;
  const guest: PodDocument = { name: "guest", ips: ["10.99.1.33", "fd99:1::33"] };
  const pod = await place(guest);
  for (const rules of [
    "table ip nat { chain ISTIO_OUTPUT { tcp dport 15006 return; }; chain OUTPUT { type nat hook output priority -100; jump ISTIO_OUTPUT; }; }",
    "table inet istio-ambient-nat { chain output { type nat hook output priority -100; tcp dport 15006 return; }; }",
  ]) {
    await pod.run(["nft", rules]);
    const found = await pod.run(["nft", "-s", "list", "ruleset"]);
    await place({ ...guest, mesh: "enabled" });
    const told = await untilPod(lab, pod, "has a problem", ({ problem }) => problem !== null);
    assert.equal(told.problem?.code, "E_CAPTURE_FOREIGN_MESH");
    assert.match(told.problem.reason, /Istio/);
    assert.equal(told.phase, "absent");
    assert.equal(await pod.run(["nft", "-s", "list", "ruleset"]), found);
    assert.deepEqual(await captureOf(pod), NOTHING);
    assert.deepEqual(await listenersOf(pod), []);
    assert.ok((await tryConnect(pod, server)).ok, "it works as its own mesh wants");
    await pod.run(["nft", "flush", "ruleset"]);
    await untilReady(lab, pod);
    await place(guest);
    await untilClean(lab, pod);
  }
});

test("a document that cannot be used is reported with file, line, field and reason, and everything else stays in force", async (t) => {
  const { lab } = mesh;
  t.after(() => {
    for (const file of ["broken-syntax.yaml", "broken-policy.yaml"]) mesh.document(file, null);
  });
  type Faults = { readonly faults: readonly { file: string; line: number; field: string; reason: string; code: string; next: string }[] };
  const faults = async (): Promise<Faults["faults"]> =>
    (JSON.parse(await get({ host: "127.0.0.1", port: ports.controlHealth }, "/v1/faults")) as Faults).faults;
  const policy = (rule: string): string =>
    `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: broken, namespace: app }\nspec:\n  selector: { matchLabels: { app: server } }\n  action: DENY\n  rules:\n  - ${rule}\n`;
  mesh.document("broken-syntax.yaml", "apiVersion: v1\nkind: [Pod\n");
  mesh.document("broken-policy.yaml", policy("form: [{ source: { namespaces: [nowhere] } }]"));
  const told = await until("both are told", async () => {
    const all = await faults();
    return ["broken-syntax.yaml", "broken-policy.yaml"].every((file) => all.some((fault) => fault.file === file)) && all;
  });
  const bySyntax = told.find(({ file }) => file === "broken-syntax.yaml");
  assert.ok(bySyntax !== undefined && bySyntax.line >= 2 && bySyntax.reason !== "", JSON.stringify(told));
  const byField = told.find(({ code }) => code === "E_SOURCE_UNSUPPORTED");
  assert.deepEqual([byField?.file, byField?.line, byField?.field], ["broken-policy.yaml", 8, "spec.rules[0].form"]);
  assert.notEqual(byField?.next, "");
  const cli = await lab.underlay.exec([process.execPath, "src/cli/main.ts", "status", "--run", lab.node("node-a").runDirectory]);
  assert.equal(cli.code, 1, cli.stderr);
  assert.match(cli.stdout, /broken-syntax\.yaml:\d/);
  const client = lab.pod("app/client");
  assert.ok(
    (await tryConnect(client, `${address(lab.pod("app/neighbour"))}:${SERVER_PORT}`)).ok,
    "what no broken document is about goes on",
  );
  assert.ok(!(await tryConnect(client, server)).ok, "a policy that cannot be enforced denies what it selects");
  mesh.document("broken-syntax.yaml", null);
  mesh.document("broken-policy.yaml", policy("from: [{ source: { namespaces: [nowhere] } }]"));
  await until("nothing is wrong any more", async () => (await faults()).length === 0);
  await until("nor on the node", async () => (await lab.status("node-a")).source.length === 0);
  await until("the mended policy is in force", async () => (await tryConnect(client, server)).ok);
});

test("with daemon and engine stopped nothing passes, and rescue frees the pod", async () => {
  const { lab } = mesh;
  const pod = await place({ ...walker, mesh: "enabled" });
  await untilReady(lab, pod);
  await lab.stopNode("node-a");
  assert.ok(!(await tryConnect(pod, server)).ok, "a captured pod got through without its engine");
  const rescue = await lab.underlay.exec([process.execPath, "src/cli/main.ts", "rescue", "--yes", "--netns", pod.netns]);
  assert.equal(rescue.code, 0, rescue.stdout + rescue.stderr);
  assert.match(rescue.stdout, /table inet trackbed, IPv4 rule, IPv4 route, IPv6 rule, IPv6 rule of the engine, IPv6 route +removed/);
  assert.deepEqual(await captureOf(pod), NOTHING);
  const direct = await tryConnect(pod, server);
  assert.ok(direct.ok, direct.error);
  await lab.startNode("node-a");
  await lab.ready();
  assert.equal((await statusOf(lab, pod))?.phase, "ready", "a daemon that is back captures it again");
});
