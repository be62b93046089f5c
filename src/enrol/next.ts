// The enrolment state machine: what should happen to a pod next, as a pure function of what it should be and what was observed of it.
// docs: design, "Enrolment and capture". Three rules hold everywhere:
//   - a namespace that we have not captured gets rules only when the engine listens in it and has identity and policy;
//   - a namespace that we have captured keeps its rules, whatever becomes of the engine: traffic may stop but never pass in clear;
//   - what keeps captured connections alive (rules or holder) goes only after the engine said that none is left.
import { type Desired, type EngineView, type EnrolmentState, type Fault, type Observed, type Step, sameNamespace } from "./state.ts";

const fault = (code: Fault["code"], reason: string): Fault => ({ code, reason });

const ENGINE_AWAY = fault("E_ENGINE_AWAY", "no engine is connected");

const wait = (why: Fault | null): Step => ({ do: "waitEngine", fault: why });

/** `alone`: no engine will come any more that could say whether captured connections live. */
export function next(desired: Desired, observed: Observed, drainMilliseconds: number, alone = false): Step {
  switch (desired) {
    case "enrolled":
      return enrol(observed);
    case "absent":
      return unenrol(observed, drainMilliseconds, alone);
    case "deleted":
      return bury(observed, alone);
    case "gone":
      return leaveEngine(observed, 0) ?? outlast(observed);
  }
}

/** The phase that control and people are told. */
export function stateOf(desired: Desired, observed: Observed): EnrolmentState {
  const { rules, engine } = observed;
  if (redirects(observed)) return desired === "enrolled" && isReady(observed) ? "ready" : "captured";
  return rules === "holder" || (desired !== "enrolled" && inEngine(engine)) ? "leaving" : "absent";
}

/** Whether traffic of the pod meets our rules, as far as we know. A flushed table counts: it is about to be repaired. */
function redirects({ rules, captured, namespace }: Observed): boolean {
  if (rules === "equal" || rules === "different") return true;
  return captured !== null && (namespace === "unknown" || sameNamespace(captured, namespace));
}

function isReady({ rules, routing, engine, proof }: Observed): boolean {
  return rules === "equal" && routing && engine.connected && missing(engine) === null && proof === "proven";
}

/** The engine has the pod, not just its descriptor: then only PodGone says that nothing is left of it. */
const inEngine = (engine: EngineView): boolean => engine.added || engine.draining !== null || engine.facts !== null;

/** What the engine lacks to carry the pod's traffic, null when it lacks nothing. */
function missing({ facts }: EngineView): { readonly why: Fault | null } | null {
  if (facts === null || !facts.listening) return { why: facts?.fault ?? null };
  if (!facts.identity) return { why: facts.fault ?? fault("E_IDENTITY_MISSING", "the engine has no certificate for the pod yet") };
  if (!facts.policy)
    return { why: facts.fault ?? fault("E_WORKLOAD_UNKNOWN", "the engine does not know the pod's workload and policies yet") };
  return null;
}

function enrol(observed: Observed): Step {
  const { namespace, rules, routing, foreign, engine, proof } = observed;
  if (namespace === "unknown") return { do: "readBack" };
  if (namespace === null) return { do: "report", fault: fault("E_CAPTURE_NETNS_GONE", "the pod's network namespace does not exist") };
  if (rules === "unknown") return { do: "readBack" };
  if (foreign !== null) return { do: "report", fault: fault("E_CAPTURE_FOREIGN_MESH", foreign) };
  const inPlace = rules === "equal" && routing;
  if (!inPlace && sameNamespace(observed.captured, namespace)) return { do: "applyRules" };
  if (!engine.connected) return wait(ENGINE_AWAY);
  if (!sameNamespace(engine.holds, namespace)) return { do: "handOver" };
  if (!engine.added || engine.draining !== null) return { do: "addPod" };
  const lacks = missing(engine);
  if (lacks !== null) return wait(lacks.why);
  if (!inPlace) return { do: "applyRules" };
  if (proof === "none") return { do: "prove" };
  return proof === "proven" ? { do: "nothing" } : { do: "report", fault: proof };
}

function unenrol(observed: Observed, drainMilliseconds: number, alone: boolean): Step {
  const { namespace, rules, engine } = observed;
  if (namespace === "unknown" || (namespace !== null && rules === "unknown")) return { do: "readBack" };
  if (namespace !== null && (rules === "equal" || rules === "different")) return { do: "applyHolder" };
  const moved = engine.holds !== null && !sameNamespace(engine.holds, namespace);
  return leaveEngine(observed, moved ? 0 : drainMilliseconds) ?? clear(observed, alone);
}

/** A pod that is over: nothing is kept alive, but a namespace that outlives its pod must not keep redirecting to closed ports. */
const bury = (observed: Observed, alone: boolean): Step => leaveEngine(observed, 0) ?? clear(observed, alone);

/** A container that is being killed may still run: its rules go with its namespace, never before. */
function outlast({ namespace, rules, routing }: Observed): Step {
  if (namespace === "unknown") return { do: "readBack" };
  if (namespace === null) return { do: "nothing" };
  if (rules === "unknown") return { do: "readBack" };
  return rules === "none" && !routing ? { do: "nothing" } : wait(null);
}

/** The step that takes the pod out of the engine, null when it is out. A shorter deadline than the one under way is sent again. */
function leaveEngine({ engine }: Observed, drainMilliseconds: number): Step | null {
  if (!engine.connected || !inEngine(engine)) return null;
  if (engine.draining === null || engine.draining > drainMilliseconds) return { do: "removePod", drainMilliseconds };
  return wait(null);
}

/** The end of both ways out. Without an engine nobody can say whether captured connections live: what holds them stays. */
function clear({ namespace, rules, routing, engine }: Observed, alone: boolean): Step {
  if (namespace === "unknown") return { do: "readBack" };
  if (namespace === null) return { do: "nothing" };
  if (rules === "unknown") return { do: "readBack" };
  if (rules === "none" && !routing) return { do: "nothing" };
  return engine.connected || alone ? { do: "removeRules" } : wait(ENGINE_AWAY);
}
