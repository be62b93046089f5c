// Claims about what the CNI plugin is answered, with the API server, the sandboxes' namespaces and the reconciler in memory.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { CniOutcome, CniRequest } from "#cni/request.ts";
import type { NamespaceIdentity, Observed } from "#enrol/state.ts";
import { unobserved } from "#enrol/state.ts";
import { enrolment } from "#mesh/enrolment.ts";
import { meshError } from "#mesh/error.ts";
import type { Namespace, Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import { admission, type Facts } from "./admission.ts";
import { newRecord, type PodRecord } from "./pod.ts";
import { createSandboxes } from "./sandboxes.ts";
import { specimen } from "./specimen.ts";

const HERE: NamespaceIdentity = { bootId: "boot", cookie: 7n };
const space = (mesh: "enabled" | "disabled"): Namespace => ({
  kind: "Namespace",
  metadata: meta("", "shop", { labels: { "trackbed.dev/mesh": mesh } }),
});
const pod = (labels: Record<string, string> = {}): Pod =>
  podOf(meta("shop", "web", { uid: "u-1", labels }), { nodeName: "a", phase: "Pending", ready: false, podIPs: [] });
const request = (more: Partial<CniRequest> = {}): CniRequest => ({
  containerId: "c1",
  netns: "/run/netns/cni-1",
  ifName: "eth0",
  podNamespace: "shop",
  podName: "web",
  podUid: "u-1",
  ips: ["10.0.0.7"],
  ...more,
});

function node(
  facts: Facts | null | Error,
  options: { readonly known?: Facts; readonly netns?: NamespaceIdentity | null; readonly addMilliseconds?: number } = {},
) {
  const calls: string[] = [];
  const records = new Map<string, PodRecord>();
  const listeners = new Set<() => void>();
  const began = Promise.withResolvers<void>();
  const sandboxes = createSandboxes({ addressesIn: async () => null, failed: () => undefined, root: "/" });
  const handlers = admission({
    fresh: async () => {
      if (facts instanceof Error) throw facts;
      return facts;
    },
    known: () => ({ namespace: options.known?.namespace ?? undefined, pod: options.known?.pod }),
    decide: enrolment,
    sandboxes,
    started: began.promise,
    adopt: ({ pod: { metadata } }) => {
      calls.push("adopt");
      records.set(metadata.uid, newRecord(specimen(metadata.uid), null));
    },
    moved: () => calls.push("moved"),
    identify: async () => (options.netns === undefined ? HERE : options.netns),
    promise: (uid, { cookie }) => calls.push(`promise ${uid} ${cookie}`),
    record: (uid) => records.get(uid),
    onSettled: (call) => {
      listeners.add(call);
      return () => listeners.delete(call);
    },
    addMilliseconds: options.addMilliseconds ?? 5000,
  });
  const observe = (uid: string, observed: Partial<Observed>): void => {
    const record = records.get(uid);
    if (record !== undefined) record.observed = { ...unobserved, ...observed };
    for (const call of listeners) call();
  };
  return { calls, records, sandboxes, handlers, observe, began, listeners };
}

const captured: Partial<Observed> = {
  namespace: HERE,
  rules: "equal",
  routing: true,
  captured: HERE,
  engine: {
    connected: true,
    holds: HERE,
    added: true,
    draining: null,
    facts: { listening: true, identity: false, policy: false, connections: 0, fault: null },
  },
};
/** Everything that is already on its way has happened. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const code = (outcome: CniOutcome): string => ("code" in outcome ? outcome.code : String(outcome.captured));

test("a pod outside of the mesh passes at once, before the node's pods are known", async () => {
  const { calls, handlers } = node({ namespace: space("disabled"), pod: pod() });
  const outcome = await handlers.add(request(), () => calls.push("working"));
  assert.deepEqual([outcome, calls], [{ captured: false }, []]);
});

test("a pod that is deleted while it is captured does not keep its runtime waiting", async () => {
  const { began, handlers, observe, records } = node({ namespace: space("enabled"), pod: pod() }, { addMilliseconds: 3_600_000 });
  began.resolve();
  const adding = handlers.add(request(), () => undefined);
  await settle();
  const record = records.get("u-1");
  if (record !== undefined) record.spec = { ...record.spec, desired: "gone" };
  observe("u-1", {});
  assert.equal(code(await adding), "E_CNI_NOT_CAPTURED");
});

test("a pod of the mesh waits until it is captured; identity and policy may come later", async () => {
  const { began, calls, handlers, listeners, observe, sandboxes } = node({ namespace: space("enabled"), pod: pod() });
  let answered = false;
  const adding = handlers
    .add(request(), () => calls.push("working"))
    .finally(() => {
      answered = true;
    });
  await settle();
  assert.deepEqual(calls, ["working"], "nothing is adopted while all other pods would look deleted");
  began.resolve();
  await settle();
  assert.deepEqual(calls, ["working", "adopt", "promise u-1 7"]);
  assert.deepEqual(sandboxes.of(pod(), true).addresses, ["10.0.0.7"]);
  observe("u-1", { ...captured, rules: "unknown" });
  observe("u-1", { ...captured, engine: { ...unobserved.engine, connected: true } });
  await settle();
  assert.equal(answered, false);
  observe("u-1", captured);
  assert.deepEqual(await adding, { captured: true });
  assert.equal(listeners.size, 0);
});

test("a pod that is captured in an older sandbox is not captured", async () => {
  const { began, handlers, observe } = node({ namespace: space("enabled"), pod: pod() }, { addMilliseconds: 50 });
  began.resolve();
  const adding = handlers.add(request(), () => undefined);
  await settle();
  observe("u-1", { ...captured, namespace: { bootId: "boot", cookie: 6n } });
  assert.equal(code(await adding), "E_CNI_NOT_CAPTURED");
});

test("a pod that is not captured in time is refused with what is missing", async () => {
  const { began, handlers, records } = node({ namespace: space("enabled"), pod: pod() }, { addMilliseconds: 50 });
  began.resolve();
  const adding = handlers.add(request(), () => undefined);
  await settle();
  const record = records.get("u-1");
  if (record !== undefined) record.problem = { code: "E_ENGINE_AWAY", reason: "no engine is connected", next: "", since: "" };
  assert.deepEqual(await adding, { code: "E_ENGINE_AWAY", reason: "no engine is connected" });
});

test("the API's word counts; without it what was last heard; without that nothing passes", async () => {
  const away = meshError("E_CONTROL_AWAY", "connection refused");
  const known = { namespace: space("disabled"), pod: pod() };
  assert.deepEqual(await node(away, { known }).handlers.add(request(), () => undefined), { captured: false });
  const unknown = await node(away).handlers.add(request(), () => undefined);
  assert.equal(code(unknown), "E_CNI_UNDECIDED");
  assert.equal(code(await node(null, { known }).handlers.add(request(), () => undefined)), "E_CNI_UNDECIDED");
});

test("a pod whose namespace cannot be read is not taken for one of a namespace without a label", async () => {
  const outcome = await node({ namespace: null, pod: pod() }).handlers.add(request(), () => undefined);
  assert.equal(code(outcome), "E_CNI_UNDECIDED");
});

test("what was last heard of a pod's predecessor says nothing about a pod of the same name", async () => {
  const away = meshError("E_CONTROL_AWAY", "connection refused");
  const known = { namespace: space("disabled"), pod: pod() };
  const outcome = await node(away, { known }).handlers.add(request({ podUid: "u-2" }), () => undefined);
  assert.equal(code(outcome), "E_CNI_UNDECIDED", "it may have a label of its own that its predecessor had not");
});

test("a pod's own label beats its namespace's", async () => {
  const { calls, handlers } = node({ namespace: space("disabled"), pod: pod({ "trackbed.dev/mesh": "enabled" }) }, { netns: null });
  const adding = handlers.add(request({ podUid: "u-2" }), () => calls.push("working"));
  assert.equal(code(await adding), "E_CNI_UNDECIDED", "the runtime starts another pod than the one that the API has");
  assert.deepEqual(calls, ["working"]);
});

test("a pod that goes is let go before its address can be another's", async () => {
  const { began, handlers, observe, calls, records } = node({ namespace: space("enabled"), pod: pod() });
  began.resolve();
  const adding = handlers.add(request(), () => undefined);
  await settle();
  observe("u-1", captured);
  await adding;
  let gone = false;
  const going = handlers.del(request()).finally(() => {
    gone = true;
  });
  await settle();
  assert.deepEqual([gone, calls.at(-1)], [false, "moved"]);
  observe("u-1", { ...captured, engine: { ...unobserved.engine, connected: true } });
  assert.deepEqual(await going, { captured: false });
  records.clear();
  assert.deepEqual(await handlers.del(request()), { captured: false }, "a second time is no error");
});

test("check tells a pod that is captured from one whose rules were taken away", async () => {
  const known = { namespace: space("enabled"), pod: pod() };
  const { began, handlers, observe } = node(known, { known });
  began.resolve();
  const adding = handlers.add(request(), () => undefined);
  await settle();
  observe("u-1", captured);
  await adding;
  assert.deepEqual(await handlers.check(request()), { captured: true });
  observe("u-1", { ...captured, rules: "none" });
  assert.equal(code(await handlers.check(request())), "E_CNI_NOT_CAPTURED");
});
