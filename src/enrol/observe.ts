// How what happened changes what is known of a pod: the other half of the state machine, as pure as `next`.
import {
  type Desired,
  type EngineFacts,
  type EngineView,
  type Fault,
  type NamespaceIdentity,
  type Observed,
  type Rules,
  sameNamespace,
} from "./state.ts";

export type Happened =
  /** Namespace, rules and routing were read. */
  | {
      readonly what: "readBack";
      readonly desired: Desired;
      readonly namespace: NamespaceIdentity | null;
      readonly rules: Exclude<Rules, "unknown">;
      readonly routing: boolean;
      readonly foreign: string | null;
    }
  /** Something moved in the namespace, or the plan changed: what was read no longer counts. */
  | { readonly what: "drift" }
  | { readonly what: "respecified" }
  /** The runtime waits for this namespace: rules come first, whatever the engine still lacks. */
  | { readonly what: "promised"; readonly namespace: NamespaceIdentity }
  | { readonly what: "handedOver"; readonly namespace: NamespaceIdentity }
  | { readonly what: "podAdded" }
  | { readonly what: "podRemoved"; readonly drainMilliseconds: number }
  | { readonly what: "podState"; readonly namespace: NamespaceIdentity; readonly facts: EngineFacts }
  | { readonly what: "podGone"; readonly namespace: NamespaceIdentity }
  /** The engine said Hello; `pod` is what it holds of this one. */
  | {
      readonly what: "attached";
      readonly sameInstance: boolean;
      readonly pod: { readonly namespace: NamespaceIdentity; readonly facts: EngineFacts } | null;
    }
  | { readonly what: "detached" }
  /** The engine did not answer in time: give it the pod anew. */
  | { readonly what: "engineSilent" }
  | { readonly what: "rulesApplied" }
  | { readonly what: "holderApplied" }
  | { readonly what: "rulesRemoved" }
  | { readonly what: "proven" }
  | { readonly what: "notProven"; readonly fault: Fault }
  /** The pause after a failure is over. */
  | { readonly what: "retry" };

const NO_ENGINE = { holds: null, added: false, draining: null, facts: null } as const;

export function observe(observed: Observed, happened: Happened): Observed {
  const { engine } = observed;
  switch (happened.what) {
    case "readBack":
      return readBack(observed, happened);
    case "drift":
      return { ...observed, rules: "unknown" };
    case "respecified":
      return { ...observed, rules: "unknown", engine: { ...engine, added: false } };
    case "promised":
      return { ...observed, rules: "unknown", captured: happened.namespace };
    case "handedOver": {
      const same = sameNamespace(engine.holds, happened.namespace);
      // Another namespace than the one that was read: the pod's was replaced in between, so read again before anything else.
      const namespace =
        observed.namespace !== "unknown" && sameNamespace(observed.namespace, happened.namespace) ? observed.namespace : "unknown";
      const next = { ...NO_ENGINE, connected: engine.connected, holds: happened.namespace, facts: trouble(engine) };
      return { ...observed, namespace, engine: same ? engine : next };
    }
    case "podAdded":
      return { ...observed, engine: { ...engine, added: true, draining: null } };
    case "podRemoved":
      return { ...observed, engine: { ...engine, draining: happened.drainMilliseconds } };
    case "podState":
      // A late message about a namespace that the engine was told to replace says nothing about the present one.
      if (!engine.connected || (engine.holds !== null && !sameNamespace(engine.holds, happened.namespace))) return observed;
      return { ...observed, engine: { ...engine, holds: happened.namespace, facts: happened.facts } };
    case "podGone":
      if (engine.holds !== null && !sameNamespace(engine.holds, happened.namespace)) return observed;
      return { ...observed, proof: "none", engine: { ...NO_ENGINE, connected: engine.connected } };
    case "attached": {
      const { sameInstance, pod } = happened;
      const held = pod === null ? NO_ENGINE : { ...NO_ENGINE, holds: pod.namespace, facts: pod.facts };
      return { ...observed, proof: sameInstance ? observed.proof : "none", engine: { ...held, connected: true } };
    }
    case "detached":
      return { ...observed, engine: { ...engine, connected: false, added: false, draining: null } };
    case "engineSilent":
      return { ...observed, proof: "none", engine: { ...NO_ENGINE, connected: engine.connected, facts: trouble(engine) } };
    case "rulesApplied":
      return { ...observed, rules: "unknown", proof: "none", captured: observed.namespace === "unknown" ? null : observed.namespace };
    case "holderApplied":
    case "rulesRemoved":
      return { ...observed, rules: "unknown", proof: "none", captured: null };
    case "proven":
      return { ...observed, proof: observed.rules === "equal" && engine.connected ? "proven" : "none" };
    case "notProven":
      return { ...observed, proof: happened.fault };
    case "retry":
      return { ...observed, rules: "unknown", proof: observed.proof === "proven" ? "proven" : "none" };
  }
}

/** Why the engine does not listen stays known while it gets the pod anew: it says so only once. */
const trouble = ({ facts }: EngineView): EngineFacts | null => (facts !== null && !facts.listening && facts.fault !== null ? facts : null);

function readBack(observed: Observed, read: Extract<Happened, { what: "readBack" }>): Observed {
  const { desired, namespace, rules, routing, foreign } = read;
  const replaced = observed.namespace !== "unknown" && !sameNamespace(observed.namespace, namespace);
  // Rules that are in force are a promise, whoever remembers making it. It follows a wanted pod into the namespace that replaces its own, so
  // that rules come first there and the engine second, and ends when rules that nobody wants are gone.
  const promised = desired === "enrolled" && foreign === null ? observed.captured : null;
  const captured = namespace !== null && (rules === "equal" || promised !== null) ? namespace : promised;
  const proof = replaced || rules !== "equal" || !routing ? "none" : observed.proof;
  return {
    ...observed,
    namespace,
    rules: namespace === null ? "none" : rules,
    routing: namespace !== null && routing,
    foreign,
    captured,
    proof,
  };
}
