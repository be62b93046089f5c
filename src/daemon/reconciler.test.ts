// Claims about the reconciler, tried on a node whose namespaces and engine are in memory.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { HelloSchema, PodGoneSchema, type PodState, PodStateSchema } from "#contract/gen/engine_pb.ts";
import { meshError } from "#mesh/error.ts";
import type { PodSpec } from "./desired.ts";
import type { Hands, PodRecord } from "./pod.ts";
import { type Reconciler, type ReconcilerOptions, reconciler } from "./reconciler.ts";
import { specimen } from "./specimen.ts";

const BOOT = "boot";
const DEADLINE_MS = 5000;

type FakeNamespace = { cookie: bigint; rules: "none" | "equal" | "different" | "holder"; routing: boolean; foreign: string | null };

type Node = {
  reconciler: Reconciler;
  namespaces: Map<string, FakeNamespace>;
  calls: string[];
  /** Steps that fail, and how often yet. */
  failing: Map<string, number>;
  /** Highest number of steps at one time. */
  busiest: number;
  engine: { up: boolean; pods: Map<string, PodState>; removed: Map<string, number>; silent: Set<string> };
  named: number;
  drifted: string[];
  until(what: string, holds: () => boolean): Promise<void>;
  record(uid: string): PodRecord;
  attach(instance: string): void;
};

const specs = (...list: PodSpec[]): Map<string, PodSpec> => new Map(list.map((one) => [one.uid, one]));

function start(t: TestContext, sweepMilliseconds = 3_600_000, more: Partial<ReconcilerOptions> = {}): Node {
  const namespaces = new Map<string, FakeNamespace>();
  const calls: string[] = [];
  const failing = new Map<string, number>();
  const engine: Node["engine"] = { up: false, pods: new Map(), removed: new Map(), silent: new Set() };
  const drifted: string[] = [];
  let checks: (() => void)[] = [];
  let at = 0;
  const look = (): void => {
    for (const check of checks) check();
  };

  const at_ = (one: PodSpec): FakeNamespace => {
    const found = one.netns === null ? undefined : namespaces.get(one.netns);
    if (found === undefined) throw meshError("E_CAPTURE_NETNS_GONE", "no such namespace");
    return found;
  };
  async function step<T>(name: string, one: PodSpec, act: () => T): Promise<T> {
    calls.push(`${name} ${one.uid}`);
    at++;
    node.busiest = Math.max(node.busiest, at);
    await new Promise((resolve) => setImmediate(resolve));
    at--;
    const fails = failing.get(name) ?? 0;
    if (fails > 0) {
      failing.set(name, fails - 1);
      throw meshError("E_CAPTURE_RULES_FAILED", `${name} fails by order`);
    }
    return act();
  }

  const hands: Hands = {
    read: (one) =>
      step("read", one, () => {
        const found = one.netns === null ? undefined : namespaces.get(one.netns);
        if (found === undefined)
          return { namespace: null, rules: "none" as const, routing: false, foreign: null, differences: [], warnings: [] };
        const { cookie, rules, routing, foreign } = found;
        return { namespace: { bootId: BOOT, cookie }, rules, routing, foreign, differences: [], warnings: [] };
      }),
    handOver: (one) => step("handOver", one, () => ({ bootId: BOOT, cookie: at_(one).cookie })),
    applyRules: (one) => step("applyRules", one, () => void Object.assign(at_(one), { rules: "equal", routing: true })),
    applyHolder: (one) => step("applyHolder", one, () => void Object.assign(at_(one), { rules: "holder" })),
    removeRules: (one) => step("removeRules", one, () => void Object.assign(at_(one), { rules: "none", routing: false })),
    addPod: (one, { cookie }) => {
      calls.push(`addPod ${one.uid}`);
      if (!engine.up) return false;
      engine.removed.delete(one.uid);
      const state = create(PodStateSchema, { uid: one.uid, netnsCookie: cookie, listening: true, identity: true, policy: true });
      engine.pods.set(one.uid, state);
      if (!engine.silent.has(one.uid)) setImmediate(() => node.reconciler.podState(state));
      return true;
    },
    removePod: (one, milliseconds) => {
      calls.push(`removePod ${one.uid} ${milliseconds}`);
      if (!engine.up) return false;
      engine.removed.set(one.uid, milliseconds);
      return true;
    },
    prove: (one) => step("prove", one, () => undefined),
  };

  const node: Node = {
    namespaces,
    calls,
    failing,
    engine,
    drifted,
    busiest: 0,
    named: 0,
    reconciler: reconciler({
      bootId: BOOT,
      hands,
      sweepMilliseconds,
      countUnmeshed: async () => 3,
      glance: ({ netns }) => String(namespaces.get(netns ?? "")?.cookie),
      glanceMilliseconds: 5,
      named: () => node.named++,
      ...more,
      events: { settled: look, forgotten: look, drifted: ({ spec: { uid } }) => drifted.push(uid), repaired: look },
    }),
    until: async (what, holds) => {
      if (holds()) return;
      const come = Promise.withResolvers<void>();
      const check = (): void => {
        if (holds()) come.resolve();
      };
      checks.push(check);
      const timer = setTimeout(() => come.reject(new Error(`never: ${what}; ${JSON.stringify(calls)}`)), DEADLINE_MS);
      await come.promise.finally(() => {
        clearTimeout(timer);
        checks = checks.filter((one) => one !== check);
      });
    },
    record: (uid) => {
      const record = node.reconciler.records.get(uid);
      assert.ok(record, `pod ${uid} is not known`);
      return record;
    },
    attach: (instance) => {
      engine.up = true;
      node.reconciler.attached(create(HelloSchema, { instance, bootId: BOOT, pods: [...engine.pods.values()] }));
    },
  };
  t.after(() => node.reconciler.stop());
  return node;
}

const fresh = (cookie: bigint): FakeNamespace => ({ cookie, rules: "none", routing: false, foreign: null });

async function ready(t: TestContext, sweepMilliseconds?: number): Promise<Node> {
  const node = start(t, sweepMilliseconds);
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("a is ready", () => node.reconciler.records.get("a")?.state === "ready");
  return node;
}

test("a pod is taken in: engine first, then rules, then proof", async (t) => {
  const node = await ready(t);
  const doing = node.calls.filter((call) => !call.startsWith("read"));
  assert.deepEqual(doing, ["handOver a", "addPod a", "applyRules a", "prove a"]);
  assert.equal(node.record("a").problem, null);
});

test("a step that fails is tried again, and the reason is shown meanwhile", async (t) => {
  const node = start(t);
  node.namespaces.set("/netns/a", fresh(1n));
  node.failing.set("applyRules", 2);
  node.attach("one");
  const problems = new Set<string>();
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("a is ready", () => {
    const record = node.reconciler.records.get("a");
    if (record?.problem) problems.add(record.problem.code);
    return record?.state === "ready";
  });
  assert.ok(problems.has("E_CAPTURE_RULES_FAILED"));
  assert.equal(node.calls.filter((call) => call === "applyRules a").length, 3);
});

test("drift is repaired at the notice, without a word to the engine, and counted", async (t) => {
  const node = await ready(t);
  node.calls.length = 0;
  Object.assign(node.namespaces.get("/netns/a") ?? {}, { rules: "none" });
  node.reconciler.drift("a");
  await node.until("rules are back", () => node.namespaces.get("/netns/a")?.rules === "equal" && node.record("a").state === "ready");
  assert.deepEqual(node.drifted, ["a"]);
  assert.ok(!node.calls.some((call) => call.startsWith("addPod") || call.startsWith("handOver")));
});

test("a notice of our own change is no drift", async (t) => {
  const node = await ready(t);
  node.calls.length = 0;
  node.reconciler.drift("a");
  await node.until("it was read again", () => node.calls.includes("read a"));
  assert.deepEqual(node.drifted, []);
});

test("drift without a notice is found by the sweep, which also counts older connections", async (t) => {
  const node = await ready(t, 20);
  Object.assign(node.namespaces.get("/netns/a") ?? {}, { rules: "different" });
  await node.until("rules are back", () => node.namespaces.get("/netns/a")?.rules === "equal");
  await node.until("connections were counted", () => node.record("a").notMeshed === 3);
});

test("pods that the engine watches are swept six times less often than one that it does not", async (t) => {
  const node = await ready(t, 10);
  node.namespaces.set("/netns/b", fresh(2n));
  node.engine.silent.add("b");
  node.reconciler.update(specs(specimen("a"), specimen("b")), true);
  await node.until("b is read", () => node.calls.includes("read b"));
  node.calls.length = 0;
  const reads = (uid: string) => node.calls.filter((call) => call === `read ${uid}`).length;
  await node.until("b was swept thirty times", () => reads("b") >= 30);
  assert.ok(reads("a") >= 1 && reads("a") <= 10, `${reads("a")} looks at the ready pod`);
});

test("what moves at the end of a pass is mended, told as drift, and its process named", async (t) => {
  const node = start(t);
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("the pass is at its last step", () => node.calls.includes("prove a"));
  Object.assign(node.namespaces.get("/netns/a") ?? {}, { rules: "none" });
  node.reconciler.drift("a", "nft (process 7)");
  await node.until("it is repaired", () => node.namespaces.get("/netns/a")?.rules === "equal");
  await node.until("it is told", () => node.drifted.length === 1);
  const told = node.record("a").steps.find(({ step }) => step === "drift");
  assert.match(told?.reason ?? "", /^by nft \(process 7\): /);
});

test("a captured pod whose namespace is not found yet, or is gone, is nobody's drift", async (t) => {
  const node = start(t);
  node.reconciler.remember(specimen("a"), { bootId: BOOT, cookie: 1n });
  node.reconciler.update(specs(specimen("a", { netns: null })), true);
  await node.until("it was looked for", () => node.calls.includes("read a") && node.record("a").problem?.code === "E_CAPTURE_NETNS_GONE");
  assert.deepEqual(node.drifted, []);
});

test("a changed plan is applied and is no drift", async (t) => {
  const node = await ready(t);
  Object.assign(node.namespaces.get("/netns/a") ?? {}, { rules: "different" });
  node.reconciler.update(specs(specimen("a", { capture: { ...specimen("a").capture, dns: false } })), true);
  await node.until("rules are new", () => node.namespaces.get("/netns/a")?.rules === "equal" && node.record("a").state === "ready");
  assert.deepEqual(node.drifted, []);
  assert.equal(node.calls.filter((call) => call === "addPod a").length, 2);
});

test("the engine is told when a pod is to be looked into in another way, and rules stay as they are", async (t) => {
  const node = await ready(t);
  const applied = node.calls.filter((call) => call === "applyRules a").length;
  node.reconciler.update(specs(specimen("a", { observe: "full" })), true);
  await node.until("the engine was told", () => node.calls.filter((call) => call === "addPod a").length === 2);
  assert.equal(node.calls.filter((call) => call === "applyRules a").length, applied);
});

test("an engine that goes away leaves rules alone; a new worker gets the pod again", async (t) => {
  const node = await ready(t);
  node.engine.up = false;
  node.engine.pods.clear();
  node.reconciler.detached();
  await node.until("it is known", () => node.record("a").problem?.code === "E_ENGINE_AWAY");
  assert.equal(node.record("a").state, "captured");
  assert.equal(node.namespaces.get("/netns/a")?.rules, "equal");
  node.attach("two");
  await node.until("a is ready again", () => node.record("a").state === "ready" && node.record("a").problem === null);
  assert.equal(node.calls.filter((call) => call === "handOver a").length, 2);
  assert.equal(node.calls.filter((call) => call === "applyRules a").length, 1);
});

test("a restarted daemon names what the engine holds before InSync, and only when its documents are whole", async (t) => {
  const before = await ready(t);
  const node = start(t);
  for (const [path, namespace] of before.namespaces) node.namespaces.set(path, namespace);
  node.engine.pods = before.engine.pods;
  node.attach("one");
  assert.equal(node.named, 0, "the source was not read yet");
  node.reconciler.update(specs(), false);
  assert.equal(node.named, 0, "a document that may name the pod cannot be read");
  node.reconciler.update(specs(specimen("a")), true);
  assert.equal(node.named, 1);
  assert.equal(node.calls[0], "addPod a", "named before anything else");
  await node.until("a is ready", () => node.record("a").state === "ready");
  assert.ok(!node.calls.some((call) => call.startsWith("applyRules") || call.startsWith("handOver")));
});

test("until an engine has found a new daemon, what its pods look like is nothing to tell of", async (t) => {
  const before = await ready(t);
  const node = start(t);
  for (const [path, namespace] of before.namespaces) node.namespaces.set(path, namespace);
  node.engine.pods = before.engine.pods;
  node.engine.up = false;
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("a was looked at", () => node.reconciler.lookedAtAll);
  assert.deepEqual([node.record("a").problem?.code, node.reconciler.metAll], ["E_ENGINE_AWAY", false]);
  node.attach("one");
  assert.equal(node.reconciler.metAll, false, "nobody has looked again");
  await node.until("an engine has it", () => node.reconciler.metAll);
  assert.deepEqual([node.record("a").problem, node.record("a").state], [null, "ready"]);
});

test("a pod that leaves drains in the engine before its rules go", async (t) => {
  const node = await ready(t);
  node.reconciler.update(specs(specimen("a", { desired: "absent" })), true);
  await node.until("it drains", () => node.engine.removed.get("a") === 600_000);
  assert.equal(node.namespaces.get("/netns/a")?.rules, "holder");
  assert.equal(node.record("a").state, "leaving");
  node.reconciler.podGone({ $typeName: "trackbed.engine.v1.PodGone", uid: "a", netnsCookie: 1n, cut: 0 });
  await node.until("the rules are gone", () => node.namespaces.get("/netns/a")?.rules === "none" && node.record("a").state === "absent");
});

test("a pod whose document is gone is cut, cleaned and forgotten", async (t) => {
  const node = await ready(t);
  node.reconciler.update(specs(), true);
  await node.until("it is cut", () => node.engine.removed.get("a") === 0);
  node.reconciler.podGone({ $typeName: "trackbed.engine.v1.PodGone", uid: "a", netnsCookie: 1n, cut: 2 });
  await node.until("it is forgotten", () => !node.reconciler.records.has("a"));
  assert.equal(node.namespaces.get("/netns/a")?.rules, "none");
});

test("a pod that took over the namespace's path is not stripped by its predecessor's end", async (t) => {
  const node = await ready(t);
  node.reconciler.update(specs(specimen("b", { netns: "/netns/a" })), true);
  node.reconciler.podGone({ $typeName: "trackbed.engine.v1.PodGone", uid: "a", netnsCookie: 1n, cut: 0 });
  await node.until(
    "a is forgotten and b is ready",
    () => !node.reconciler.records.has("a") && node.reconciler.records.get("b")?.state === "ready",
  );
  assert.equal(node.namespaces.get("/netns/a")?.rules, "equal");
  assert.ok(!node.calls.includes("removeRules a"));
});

test("a replaced namespace is seen before the sweep, and closed by rules before its own hand-over", async (t) => {
  const node = await ready(t);
  await new Promise((resolve) => setTimeout(resolve, 20)); // one glance at what was there before
  node.calls.length = 0;
  node.namespaces.set("/netns/a", fresh(2n));
  await node.until(
    "the new one is captured",
    () => node.namespaces.get("/netns/a")?.rules === "equal" && node.record("a").state === "ready",
  );
  assert.deepEqual(
    node.calls.filter((call) => !call.startsWith("read")),
    ["applyRules a", "handOver a", "addPod a", "prove a"],
  );
});

test("a pod without a mesh label is looked at once and left alone", async (t) => {
  const node = start(t, 10);
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a", { desired: "absent" }), specimen("b")), true);
  node.namespaces.set("/netns/b", fresh(2n));
  await node.until("sweeps have gone by", () => node.calls.filter((call) => call === "read b").length > 4);
  assert.deepEqual(
    node.calls.filter((call) => call.endsWith(" a")),
    ["read a"],
  );
});

test("a node that starts with a hundred pods works on a few at a time", async (t) => {
  const node = start(t);
  const all = Array.from({ length: 100 }, (_, i) => specimen(`p${i}`));
  for (const [i, one] of all.entries()) node.namespaces.set(one.netns ?? "", fresh(BigInt(i + 1)));
  node.attach("one");
  node.reconciler.update(specs(...all), true);
  await node.until("all are ready", () => [...node.reconciler.records.values()].every(({ state }) => state === "ready"));
  assert.ok(node.busiest > 1 && node.busiest <= 8, `${node.busiest} at once`);
});

test("an engine that has answered is not told of the pod again because the node is busy with others", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const gate = Promise.withResolvers<number>();
  const node = start(t, undefined, { countUnmeshed: () => gate.promise });
  const others = Array.from({ length: 8 }, (_, i) => specimen(`p${i}`));
  for (const [i, one] of [specimen("a"), ...others].entries()) node.namespaces.set(one.netns ?? "", fresh(BigInt(i + 1)));
  node.engine.silent.add("a");
  node.attach("one");
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("the engine was told of a", () => node.calls.includes("addPod a"));
  node.reconciler.update(specs(specimen("a"), ...others), true);
  // Each of them holds one of the places for passes now, until the gate is opened.
  const areReady = (): boolean => others.every(({ uid }) => node.reconciler.records.get(uid)?.state === "ready");
  for (let turn = 0; turn < 1000 && !areReady(); turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(areReady());
  const answer = node.engine.pods.get("a");
  assert.ok(answer);
  node.engine.silent.clear();
  node.reconciler.podState(answer);
  t.mock.timers.tick(60_000);
  gate.resolve(0);
  await node.until("a is ready", () => node.reconciler.records.get("a")?.state === "ready");
  assert.equal(node.calls.filter((call) => call === "addPod a").length, 1);
});

test("a new pod whose containers wait for it gets rules before everything else, and that is no drift", async (t) => {
  const node = start(t);
  node.engine.silent.add("a"); // no identity, no policy, not even a listener yet
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a", { netns: null })), true);
  await node.until("a was looked at", () => node.reconciler.records.get("a")?.problem?.code === "E_CAPTURE_NETNS_GONE");
  node.calls.length = 0;
  node.reconciler.update(specs(specimen("a")), true);
  node.reconciler.promise("a", { bootId: BOOT, cookie: 1n });
  await node.until("the engine was told", () => node.calls.includes("addPod a"));
  const doing = node.calls.filter((call) => !call.startsWith("read"));
  assert.deepEqual([doing, node.drifted], [["applyRules a", "handOver a", "addPod a"], []]);
});

test("nothing is promised to a pod that is none of the mesh's", async (t) => {
  const node = start(t);
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a", { desired: "absent" })), true);
  node.reconciler.promise("a", { bootId: BOOT, cookie: 1n });
  await node.until("a was looked at", () => node.reconciler.lookedAtAll);
  assert.equal(node.namespaces.get("/netns/a")?.rules, "none");
});

test("where namespaces end with their pods, a pod that is over is let go by the engine and keeps its rules to the end", async (t) => {
  const node = start(t, 20, { over: "gone" });
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a")), true);
  await node.until("a is ready", () => node.reconciler.records.get("a")?.state === "ready");
  node.reconciler.update(new Map(), true);
  await node.until("the engine was told at once", () => node.engine.removed.get("a") === 0);
  node.engine.pods.delete("a");
  node.reconciler.podGone(create(PodGoneSchema, { uid: "a", netnsCookie: 1n, cut: 0 }));
  await node.until(
    "it was read again",
    () => node.record("a").observed.engine.facts === null && node.record("a").observed.rules === "equal",
  );
  assert.equal(node.namespaces.get("/netns/a")?.rules, "equal", "a container that is being killed still runs there");
  node.namespaces.delete("/netns/a");
  await node.until("it is forgotten", () => !node.reconciler.records.has("a"));
  assert.ok(!node.calls.some((call) => call.startsWith("removeRules") || call.startsWith("applyHolder")));
});

test("a node that the mesh leaves is cleared also when no engine will ever say that it let go", async (t) => {
  let alone = false;
  const node = start(t, 20, { farewell: { drainMilliseconds: 30_000, alone: () => alone } });
  node.namespaces.set("/netns/a", { cookie: 1n, rules: "holder", routing: true, foreign: null });
  node.reconciler.update(specs(specimen("a", { desired: "absent" })), true);
  await node.until("it waits for the engine", () => node.reconciler.records.get("a")?.problem?.code === "E_ENGINE_AWAY");
  assert.equal(node.namespaces.get("/netns/a")?.rules, "holder");
  alone = true;
  await node.until("the rules are gone", () => node.namespaces.get("/netns/a")?.rules === "none");
});

test("a running pod that claims another's address is closed by rules, though it will never have a policy", async (t) => {
  const node = start(t);
  node.engine.silent.add("a");
  node.namespaces.set("/netns/a", fresh(1n));
  node.attach("one");
  node.reconciler.update(specs(specimen("a", { closed: true })), true);
  await node.until("the engine was told", () => node.calls.includes("addPod a"));
  assert.equal(node.namespaces.get("/netns/a")?.rules, "equal");
  assert.deepEqual(node.drifted, []);
});
