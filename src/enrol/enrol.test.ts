// Claims about the state machine, tried in a simulated world whose steps fail, whose engine dies and whose namespaces are edited by others.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { next, stateOf } from "./next.ts";
import { type Happened, observe } from "./observe.ts";
import { type Desired, type EngineFacts, type NamespaceIdentity, type Observed, type Step, unobserved } from "./state.ts";

const DRAIN = 600_000;
const BOOT = "boot";

type WorldRules = "none" | "ours" | "edited" | "holder";
type EnginePod = { cookie: bigint; draining: boolean; facts: Omit<EngineFacts, "fault" | "connections">; connections: number };

/** The truth: one namespace, one engine. `observed` is what the daemon believes of it. */
type World = {
  desired: Desired;
  cookie: bigint | null;
  cookies: bigint;
  rules: WorldRules;
  routing: boolean;
  foreign: boolean;
  /** Namespaces in which our rules were in force, in which an engine was ready to take what they redirect, or that took the place of such. */
  entitled: Set<bigint>;
  engine: { up: boolean; attached: boolean; instance: number; descriptor: bigint | null; pod: EnginePod | null };
  inbox: Happened[];
  observed: Observed;
  applied: number;
};

const identity = (cookie: bigint): NamespaceIdentity => ({ bootId: BOOT, cookie });
const facts = (pod: EnginePod): EngineFacts => ({ ...pod.facts, connections: pod.connections, fault: null });

function world(start: { rules: WorldRules; routing: boolean; desired: Desired; engine: boolean; foreign: boolean }): World {
  const cookie = 1n;
  return {
    desired: start.desired,
    cookie,
    cookies: cookie,
    rules: start.foreign ? "none" : start.rules,
    routing: start.foreign ? false : start.routing,
    foreign: start.foreign,
    entitled: new Set(start.rules === "ours" ? [cookie] : []),
    engine: { up: start.engine, attached: false, instance: 1, descriptor: null, pod: null },
    inbox: [],
    observed: unobserved,
    applied: 0,
  };
}

function happen(w: World, happened: Happened): void {
  w.observed = observe(w.observed, happened);
}

function tell(w: World): void {
  const { pod } = w.engine;
  if (pod !== null && w.engine.attached) w.inbox.push({ what: "podState", namespace: identity(pod.cookie), facts: facts(pod) });
}

/** The engine makes progress with the pod it has: facts come one by one, a drained pod goes. */
function engineWorks(w: World): void {
  const { pod } = w.engine;
  if (pod === null) return;
  if (pod.draining && pod.connections === 0) {
    w.engine.pod = null;
    if (w.engine.attached) w.inbox.push({ what: "podGone", namespace: identity(pod.cookie) });
    return;
  }
  if (!pod.facts.listening) pod.facts = { ...pod.facts, listening: true };
  else if (!pod.facts.identity) pod.facts = { ...pod.facts, identity: true };
  else if (!pod.facts.policy) pod.facts = { ...pod.facts, policy: true };
  if (pod.facts.listening && pod.facts.identity && pod.facts.policy) w.entitled.add(pod.cookie);
  tell(w);
}

/** One effect in the world and what the daemon learns from it; null when the effect failed. */
function effect(w: World, step: Step): Happened | null {
  switch (step.do) {
    case "readBack": {
      const rules = ({ none: "none", ours: "equal", edited: "different", holder: "holder" } as const)[w.rules];
      return {
        what: "readBack",
        desired: w.desired,
        namespace: w.cookie === null ? null : identity(w.cookie),
        rules,
        routing: w.routing,
        foreign: w.foreign ? "istio" : null,
      };
    }
    case "handOver":
      if (!w.engine.attached || w.cookie === null) return null;
      w.engine.descriptor = w.cookie;
      return { what: "handedOver", namespace: identity(w.cookie) };
    case "addPod": {
      if (!w.engine.attached) return null;
      const { holds } = w.observed.engine;
      const { pod } = w.engine;
      if (holds === null) return null;
      if (pod?.cookie === holds.cookie) pod.draining = false;
      else if (w.engine.descriptor === holds.cookie) {
        w.engine.pod = {
          cookie: holds.cookie,
          draining: false,
          facts: { listening: false, identity: false, policy: false },
          connections: 0,
        };
      }
      tell(w);
      return { what: "podAdded" };
    }
    case "removePod":
      if (!w.engine.attached) return null;
      if (w.engine.pod !== null) {
        w.engine.pod.draining = true;
        if (step.drainMilliseconds === 0) w.engine.pod.connections = 0;
      } else if (w.observed.engine.holds !== null) w.inbox.push({ what: "podGone", namespace: w.observed.engine.holds });
      return { what: "podRemoved", drainMilliseconds: step.drainMilliseconds };
    case "applyRules":
      assert.ok(!w.foreign, "a pod of another mesh was touched");
      if (w.cookie === null) return null;
      // The namespace may have been replaced since it was read; then the rules meet one that is entitled to nothing yet. The next
      // read-back sees the new cookie. That window is the kernel's, not the machine's, so the claim is about the namespace it believes in.
      if (w.observed.namespace !== "unknown" && w.observed.namespace?.cookie === w.cookie) {
        assert.ok(w.entitled.has(w.cookie), "rules were applied before the engine was ready in that namespace");
      }
      w.rules = "ours";
      w.routing = true;
      w.applied++;
      return { what: "rulesApplied" };
    case "prove":
      return w.engine.attached && w.engine.pod?.cookie === w.cookie && w.rules === "ours"
        ? { what: "proven" }
        : { what: "notProven", fault: { code: "E_CAPTURE_PROOF_FAILED", reason: "no listener" } };
    case "applyHolder":
      if (w.cookie === null) return null;
      w.rules = "holder";
      return { what: "holderApplied" };
    case "removeRules":
      if (w.observed.namespace !== "unknown" && w.observed.namespace?.cookie === w.cookie) {
        assert.equal(w.engine.pod?.cookie === w.cookie ? w.engine.pod.connections : 0, 0, "rules went while captured connections lived");
      }
      w.rules = "none";
      w.routing = false;
      return { what: "rulesRemoved" };
    case "waitEngine":
    case "nothing":
    case "report":
      return null;
  }
}

type Move =
  | { readonly move: "step"; readonly outcome: "ok" | "failed" | "lost" }
  | { readonly move: "deliver"; readonly times: number }
  | { readonly move: "desire"; readonly desired: Desired }
  | {
      readonly move:
        | "work"
        | "attach"
        | "break"
        | "engineDies"
        | "engineStarts"
        | "flush"
        | "edit"
        | "noRoute"
        | "replace"
        | "vanish"
        | "drift"
        | "sweep"
        | "open"
        | "close";
    };

function attach(w: World): void {
  if (!w.engine.up || w.engine.attached) return;
  w.engine.attached = true;
  const pod = w.engine.pod === null ? null : { namespace: identity(w.engine.pod.cookie), facts: facts(w.engine.pod) };
  happen(w, { what: "attached", sameInstance: false, pod });
}

function breakStream(w: World): void {
  if (!w.engine.attached) return;
  w.engine.attached = false;
  w.inbox = [];
  happen(w, { what: "detached" });
}

function move(w: World, m: Move): void {
  switch (m.move) {
    case "step": {
      if (m.outcome === "failed") return;
      const happened = effect(w, next(w.desired, w.observed, DRAIN));
      if (happened !== null && m.outcome === "ok") happen(w, happened);
      return;
    }
    case "deliver": {
      const message = w.inbox.shift();
      // Facts may come twice; PodGone comes once on a stream.
      for (let i = 0; message !== undefined && i < (message.what === "podGone" ? 1 : m.times); i++) happen(w, message);
      return;
    }
    case "desire":
      w.desired = m.desired;
      return;
    case "work":
      engineWorks(w);
      return;
    case "attach":
      attach(w);
      return;
    case "break":
      breakStream(w);
      return;
    case "engineDies":
      breakStream(w);
      w.engine = { ...w.engine, up: false, pod: null, descriptor: null };
      return;
    case "engineStarts":
      w.engine = { ...w.engine, up: true, instance: w.engine.instance + 1 };
      return;
    case "flush":
      w.rules = "none";
      if (w.engine.pod !== null) w.engine.pod.connections = 0;
      return;
    case "edit":
      if (w.rules !== "none") w.rules = "edited";
      return;
    case "noRoute":
      w.routing = false;
      return;
    case "replace":
      if (w.entitled.has(w.cookies)) w.entitled.add(w.cookies + 1n);
      w.cookies++;
      w.cookie = w.cookies;
      w.rules = "none";
      w.routing = false;
      return;
    case "vanish":
      w.cookie = null;
      w.rules = "none";
      w.routing = false;
      return;
    case "drift":
      happen(w, { what: "drift" });
      return;
    case "sweep":
      happen(w, effect(w, { do: "readBack" }) ?? { what: "drift" });
      return;
    case "open":
      if (w.rules === "ours" && w.engine.pod?.cookie === w.cookie && w.engine.pod.facts.listening) w.engine.pod.connections++;
      tell(w);
      return;
    case "close":
      if (w.engine.pod !== null) w.engine.pod.connections = 0;
      tell(w);
      return;
  }
}

/** No more faults: the engine is there, connections end, and what a sweep does every few seconds is done. */
function settle(w: World): void {
  w.engine.up = true;
  if (w.cookie === null) move(w, { move: "replace" });
  breakStream(w);
  attach(w);
  move(w, { move: "close" });
  move(w, { move: "sweep" });
  for (let i = 0; i < 60; i++) {
    const step = next(w.desired, w.observed, DRAIN);
    if (step.do === "nothing" && w.inbox.length === 0) return;
    if (step.do === "report") {
      if (w.foreign) return;
      happen(w, { what: "retry" });
    }
    move(w, { move: "step", outcome: "ok" });
    if (w.inbox.length > 0) move(w, { move: "deliver", times: 1 });
    else if (step.do === "waitEngine") {
      if (w.engine.pod === null) happen(w, { what: "engineSilent" });
      engineWorks(w);
    }
  }
  assert.fail(`no end: ${JSON.stringify(w, (_, v) => (typeof v === "bigint" ? `${v}` : v instanceof Set ? [...v].map(String) : v))}`);
}

function assertAsDesired(w: World): void {
  if (w.foreign) {
    assert.deepEqual({ rules: w.rules, routing: w.routing }, { rules: "none", routing: false });
    return;
  }
  const state = stateOf(w.desired, w.observed);
  if (w.desired === "enrolled") {
    assert.equal(state, "ready");
    assert.deepEqual(
      { rules: w.rules, routing: w.routing, pod: w.engine.pod?.cookie, draining: w.engine.pod?.draining },
      { rules: "ours", routing: true, pod: w.cookie, draining: false },
    );
  } else {
    assert.equal(state, "absent");
    assert.deepEqual({ rules: w.rules, routing: w.routing, pod: w.engine.pod }, { rules: "none", routing: false, pod: null });
  }
}

const desired = fc.constantFrom<Desired>("enrolled", "absent", "deleted");
const start = fc.record({
  rules: fc.constantFrom<WorldRules>("none", "ours", "edited", "holder"),
  routing: fc.boolean(),
  desired,
  engine: fc.boolean(),
  foreign: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
});
const moves = fc.array(
  fc.oneof(
    {
      weight: 12,
      arbitrary: fc.record({
        move: fc.constant("step" as const),
        outcome: fc.constantFrom("ok" as const, "ok" as const, "failed" as const, "lost" as const),
      }),
    },
    { weight: 5, arbitrary: fc.record({ move: fc.constant("deliver" as const), times: fc.integer({ min: 0, max: 2 }) }) },
    { weight: 2, arbitrary: fc.record({ move: fc.constant("desire" as const), desired }) },
    { weight: 6, arbitrary: fc.record({ move: fc.constant("work" as const) }) },
    { weight: 3, arbitrary: fc.record({ move: fc.constant("attach" as const) }) },
    {
      weight: 8,
      arbitrary: fc.record({
        move: fc.constantFrom(
          "break" as const,
          "engineDies",
          "engineStarts",
          "flush",
          "edit",
          "noRoute",
          "replace",
          "vanish",
          "drift",
          "sweep",
          "open",
          "close",
        ),
      }),
    },
  ),
  { maxLength: 80 },
);

test("whatever fails in between, the pod ends as desired, no rule comes before the engine and none goes under a live connection", () => {
  fc.assert(
    fc.property(start, moves, (from, list) => {
      const w = world(from);
      for (const m of list) move(w, m);
      settle(w);
      assertAsDesired(w);
    }),
    { numRuns: 3000 },
  );
});

test("desired states that come doubled or in another order, but with the same last one, end the same", () => {
  fc.assert(
    fc.property(start, fc.array(desired, { maxLength: 6 }), fc.array(desired, { maxLength: 6 }), desired, (from, one, other, last) => {
      const ends = [one, other].map((list) => {
        const w = world(from);
        for (const d of [...list, last, last]) {
          move(w, { move: "desire", desired: d });
          move(w, { move: "step", outcome: "ok" });
        }
        settle(w);
        return { rules: w.rules, routing: w.routing, engine: w.engine.pod, state: stateOf(w.desired, w.observed) };
      });
      assert.deepEqual(ends[0], ends[1]);
    }),
  );
});

test("nothing is done to a pod that is as desired, however often it is looked at", () => {
  const w = world({ rules: "none", routing: false, desired: "enrolled", engine: true, foreign: false });
  settle(w);
  assertAsDesired(w);
  assert.equal(w.applied, 1);
  for (let i = 0; i < 10; i++) {
    move(w, { move: "sweep" });
    assert.deepEqual(next(w.desired, w.observed, DRAIN), { do: "nothing" });
  }
});

function enrolled(): World {
  const w = world({ rules: "none", routing: false, desired: "enrolled", engine: true, foreign: false });
  settle(w);
  return w;
}

test("a captured pod keeps its rules while the engine is away, and flushed rules come back without it", () => {
  const w = enrolled();
  move(w, { move: "engineDies" });
  assert.equal(next(w.desired, w.observed, DRAIN).do, "waitEngine");
  move(w, { move: "flush" });
  move(w, { move: "sweep" });
  assert.equal(next(w.desired, w.observed, DRAIN).do, "applyRules");
  assert.equal(stateOf(w.desired, w.observed), "captured");
});

test("a restarted daemon that finds everything right changes nothing but proves capture again", () => {
  const w = enrolled();
  w.observed = unobserved;
  w.engine.attached = false;
  attach(w);
  const seen: string[] = [];
  for (let i = 0; i < 20; i++) {
    const step = next(w.desired, w.observed, DRAIN);
    if (step.do === "nothing") break;
    seen.push(step.do);
    move(w, { move: "step", outcome: "ok" });
    move(w, { move: "deliver", times: 1 });
  }
  assert.deepEqual(seen, ["readBack", "addPod", "prove"]);
  assert.equal(w.applied, 1);
});

test("the namespace that replaces a captured one is closed by rules first and handed over second", () => {
  const w = enrolled();
  move(w, { move: "vanish" });
  move(w, { move: "sweep" });
  assert.equal(stateOf(w.desired, w.observed), "absent");
  move(w, { move: "replace" });
  move(w, { move: "sweep" });
  assert.equal(stateOf(w.desired, w.observed), "captured");
  assert.equal(next(w.desired, w.observed, DRAIN).do, "applyRules");
  settle(w);
  assertAsDesired(w);
});

test("un-enrolling leaves a holder until the last captured connection ended", () => {
  const w = enrolled();
  move(w, { move: "open" });
  w.desired = "absent";
  for (let i = 0; i < 8; i++) {
    move(w, { move: "step", outcome: "ok" });
    engineWorks(w);
    while (w.inbox.length > 0) move(w, { move: "deliver", times: 1 });
  }
  assert.equal(w.rules, "holder");
  assert.equal(stateOf(w.desired, w.observed), "leaving");
  settle(w);
  assertAsDesired(w);
});

test("what keeps captured connections alive stays while the engine cannot be asked about them", () => {
  for (const last of ["absent", "deleted"] as const) {
    const w = enrolled();
    move(w, { move: "open" });
    w.desired = "absent";
    for (let i = 0; i < 4; i++) move(w, { move: "step", outcome: "ok" });
    assert.equal(w.rules, "holder");
    breakStream(w);
    w.desired = last;
    move(w, { move: "sweep" });
    assert.equal(next(w.desired, w.observed, DRAIN).do, "waitEngine");
    settle(w);
    assertAsDesired(w);
  }
});

test("a pod taken in again while it leaves keeps its connection", () => {
  const w = enrolled();
  move(w, { move: "open" });
  w.desired = "absent";
  for (let i = 0; i < 6; i++) move(w, { move: "step", outcome: "ok" });
  w.desired = "enrolled";
  for (let i = 0; i < 8; i++) {
    move(w, { move: "step", outcome: "ok" });
    engineWorks(w);
    while (w.inbox.length > 0) move(w, { move: "deliver", times: 1 });
  }
  assert.equal(stateOf(w.desired, w.observed), "ready");
  assert.equal(w.engine.pod?.connections, 1);
});

test("a pod of another mesh is reported by name and never touched", () => {
  const w = world({ rules: "none", routing: false, desired: "enrolled", engine: true, foreign: true });
  settle(w);
  const step = next(w.desired, w.observed, DRAIN);
  assert.equal(step.do === "report" && step.fault.code, "E_CAPTURE_FOREIGN_MESH");
  assertAsDesired(w);
});
