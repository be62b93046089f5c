// One pod of this node as the daemon knows it, and one pass of the state machine over it.
import type { ErrorCode } from "#contract/tables.ts";
import { errors } from "#contract/tables.ts";
import { next, stateOf } from "#enrol/next.ts";
import { type Happened, observe } from "#enrol/observe.ts";
import { type EnrolmentState, type Fault, type NamespaceIdentity, type Observed, type Rules, type Step, unobserved } from "#enrol/state.ts";
import type { PodStep, Problem } from "#inspect/status.ts";
import { explainError, isMeshError, meshError } from "#mesh/error.ts";
import type { PodSpec } from "./desired.ts";

/** What was read of a pod's namespace. */
export type Read = {
  readonly namespace: NamespaceIdentity | null;
  readonly rules: Exclude<Rules, "unknown">;
  readonly routing: boolean;
  readonly foreign: string | null;
  /** For people: what differs, and what of others stands before our rules. */
  readonly differences: readonly string[];
  readonly warnings: readonly string[];
};

/** Everything that a pass does to the world. `in` is the namespace that the decision was made for: in any other one nothing may be done. */
export type Hands = {
  read(spec: PodSpec): Promise<Read>;
  handOver(spec: PodSpec, decided: NamespaceIdentity): Promise<NamespaceIdentity>;
  applyRules(spec: PodSpec, into: NamespaceIdentity): Promise<void>;
  applyHolder(spec: PodSpec, into: NamespaceIdentity): Promise<void>;
  removeRules(spec: PodSpec, from: NamespaceIdentity): Promise<void>;
  /** False when no engine is connected. */
  addPod(spec: PodSpec, namespace: NamespaceIdentity): boolean;
  removePod(spec: PodSpec, drainMilliseconds: number): boolean;
  prove(spec: PodSpec): Promise<void>;
};

export type PodRecord = {
  spec: PodSpec;
  observed: Observed;
  /** As last settled; what control and people are told. */
  state: EnrolmentState;
  problem: Problem | null;
  steps: PodStep[];
  differences: readonly string[];
  warnings: readonly string[];
  notMeshed: number | null;
  certificateNotAfter: bigint;
};

/** How a pass ended: as desired, waiting for the engine to say something, or to be tried again after a pause. */
export type Outcome = { readonly end: "settled" | "waiting" } | { readonly end: "failed"; readonly fault: Fault };

/** What `trackbed explain` shows: a few enrolments' worth. */
const STEPS_KEPT = 32;
/** What a step tells of a drift; all of it is in the pod's differences. */
const DIFFERENCES_TOLD = 3;
/** No honest way through the machine is longer; more means that it turns in a circle. */
const STEPS_OF_A_PASS = 16;
/** How often one step may come in one pass. Rules that must be applied twice are being edited by someone else. */
const REPEATS: Partial<Record<Step["do"], number>> = { readBack: 4, applyRules: 1, applyHolder: 1, removeRules: 1 };
const REPEATS_OF_OTHERS = 2;

export function newRecord(spec: PodSpec, captured: NamespaceIdentity | null): PodRecord {
  const observed = { ...unobserved, captured };
  const state = stateOf(spec.desired, observed);
  return { spec, observed, state, problem: null, steps: [], differences: [], warnings: [], notMeshed: null, certificateNotAfter: 0n };
}

export const happen = (record: PodRecord, happened: Happened): void => {
  record.observed = observe(record.observed, happened);
};

/** How pods leave: how long their connections may last, and whether an engine will ever say that they have ended. */
export type Farewell = { readonly drainMilliseconds: number; readonly alone: () => boolean };

export const nextStep = (record: PodRecord, { drainMilliseconds, alone }: Farewell): Step =>
  next(record.spec.desired, record.observed, drainMilliseconds, alone());

/** Takes steps until there is none to take. Never rejects: a failed step is an outcome. */
export async function pass(record: PodRecord, hands: Hands, farewell: Farewell): Promise<Outcome> {
  const taken = new Map<Step["do"], number>();
  for (let i = 0; i < STEPS_OF_A_PASS; i++) {
    const step = nextStep(record, farewell);
    if (step.do === "nothing") return settle(record, record.spec.refused, { end: "settled" });
    if (step.do === "waitEngine") return settle(record, step.fault, { end: "waiting" });
    if (step.do === "report") return settle(record, step.fault, { end: "failed", fault: step.fault });
    const times = (taken.get(step.do) ?? 0) + 1;
    taken.set(step.do, times);
    const fault = times > (REPEATS[step.do] ?? REPEATS_OF_OTHERS) ? circling(step) : await take(record, step, hands);
    if (fault !== null) return settle(record, fault, { end: "failed", fault });
  }
  const fault: Fault = { code: "E_CAPTURE_RULES_DIFFER", reason: `${STEPS_OF_A_PASS} steps did not lead to an end` };
  return settle(record, fault, { end: "failed", fault });
}

const circling = (step: Step): Fault => ({
  code: "E_CAPTURE_RULES_DIFFER",
  reason: `what ${step.do} did was not there when it was read back`,
});

/** One step; the fault when it failed. */
export async function take(record: PodRecord, step: Step, hands: Hands): Promise<Fault | null> {
  try {
    const happened = await perform(record, step, hands);
    happen(record, happened);
    note(record, step.do, null);
    return null;
  } catch (error) {
    const fault = faultOf(error);
    note(record, step.do, fault);
    // A proof that failed is an answer; the machine remembers it. After anything else that failed the namespace may have changed.
    happen(record, step.do === "prove" && fault.code !== "E_ENGINE_AWAY" ? { what: "notProven", fault } : { what: "drift" });
    return fault;
  }
}

async function perform(record: PodRecord, step: Step, hands: Hands): Promise<Happened> {
  const { spec, observed } = record;
  switch (step.do) {
    case "readBack": {
      const read = await hands.read(spec);
      record.differences = read.differences;
      record.warnings = read.warnings;
      const { namespace, rules, routing, foreign } = read;
      return { what: "readBack", desired: spec.desired, namespace, rules, routing, foreign };
    }
    case "handOver":
      return { what: "handedOver", namespace: await hands.handOver(spec, present(observed)) };
    case "addPod":
      if (!hands.addPod(spec, present(observed))) throw engineAway();
      return { what: "podAdded" };
    case "removePod":
      if (!hands.removePod(spec, step.drainMilliseconds)) throw engineAway();
      return { what: "podRemoved", drainMilliseconds: step.drainMilliseconds };
    case "applyRules":
      await hands.applyRules(spec, present(observed));
      return { what: "rulesApplied" };
    case "applyHolder":
      await hands.applyHolder(spec, present(observed));
      return { what: "holderApplied" };
    case "removeRules":
      await hands.removeRules(spec, present(observed));
      return { what: "rulesRemoved" };
    case "prove":
      await hands.prove(spec);
      return { what: "proven" };
    case "waitEngine":
    case "report":
    case "nothing":
      throw new Error(`${step.do} is not something to perform`);
  }
}

const engineAway = (): Error => meshError("E_ENGINE_AWAY", "no engine is connected");

/** Every step that touches a namespace comes after one was read. */
function present({ namespace }: Observed): NamespaceIdentity {
  if (namespace === "unknown" || namespace === null) throw meshError("E_CAPTURE_NETNS_GONE", "the pod's network namespace is not known");
  return namespace;
}

function settle(record: PodRecord, fault: Fault | null, outcome: Outcome): Outcome {
  record.state = stateOf(record.spec.desired, record.observed);
  const same = fault !== null && record.problem?.code === fault.code;
  const since = same && record.problem !== null ? record.problem.since : new Date().toISOString();
  record.problem = fault === null ? null : { code: fault.code, reason: fault.reason, next: errors[fault.code].next, since };
  return outcome;
}

export function noteDrift(record: PodRecord, by: string): void {
  const what = record.differences.slice(0, DIFFERENCES_TOLD).join("; ") || "rules or routing changed";
  note(record, "drift", { code: "E_CAPTURE_RULES_DIFFER", reason: by === "" ? what : `by ${by}: ${what}` });
}

function note(record: PodRecord, step: string, fault: Fault | null): void {
  // A sweep that finds everything in order is no news.
  if (step === "readBack" && fault === null && record.steps.at(-1)?.step === "readBack") record.steps.pop();
  const result: "done" | ErrorCode = fault?.code ?? "done";
  record.steps.push({ time: new Date().toISOString(), step, result, reason: fault?.reason ?? "" });
  if (record.steps.length > STEPS_KEPT) record.steps.shift();
}

function faultOf(error: unknown): Fault {
  if (!isMeshError(error)) return { code: "E_CAPTURE_RULES_FAILED", reason: explainError(error) };
  const causes = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return { code: error.code, reason: `${error.message}${causes}` };
}
