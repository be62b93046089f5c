// The vocabulary of enrolment: what a pod should be, what was observed of it, and the steps that lead from one to the other.
import type { ErrorCode } from "#contract/tables.ts";

/** Names a network namespace for ever: inode numbers are reused, cookies are not, and a boot starts them anew. */
export type NamespaceIdentity = { readonly bootId: string; readonly cookie: bigint };

export const sameNamespace = (a: NamespaceIdentity | null, b: NamespaceIdentity | null): boolean =>
  a !== null && b !== null && a.bootId === b.bootId && a.cookie === b.cookie;

/**
 * enrolled: in the mesh. absent: a live pod outside of it. deleted: the pod is over, nothing of it needs to be kept alive. gone: the same, and
 * its namespace ends with it; what still runs there meanwhile stays captured.
 */
export type Desired = "enrolled" | "absent" | "deleted" | "gone";

export const isOver = (desired: Desired): boolean => desired === "deleted" || desired === "gone";

/** absent → captured → ready, and back through leaving. */
export type EnrolmentState = "absent" | "captured" | "ready" | "leaving";

/**
 * The rules of our table as read back. unknown: not read since something may have changed them. different: ours by name, not by content.
 * holder: what stays after un-enrolment until the last captured connection ends.
 */
export type Rules = "unknown" | "none" | "equal" | "different" | "holder";

export type Fault = { readonly code: ErrorCode; readonly reason: string };

/** What the engine says about the pod in its present namespace. */
export type EngineFacts = {
  readonly listening: boolean;
  readonly identity: boolean;
  readonly policy: boolean;
  readonly connections: number;
  /** Why a fact is missing, when that is an error and not just time. */
  readonly fault: Fault | null;
};

/** What is known of the pod inside the engine. */
export type EngineView = {
  readonly connected: boolean;
  /** The namespace whose descriptor the engine has for the pod: handed over just now, or named by the engine itself. */
  readonly holds: NamespaceIdentity | null;
  /** AddPod with today's fields was sent on this stream for `holds`. */
  readonly added: boolean;
  /** Milliseconds of the RemovePod that was sent on this stream and not yet answered by PodGone. */
  readonly draining: number | null;
  /** Null when the engine has not said anything about the pod in `holds`. */
  readonly facts: EngineFacts | null;
};

export type Observed = {
  /** The namespace that the pod's path leads to now; "unknown" before it was read, null when there is none. */
  readonly namespace: NamespaceIdentity | "unknown" | null;
  readonly rules: Rules;
  /** Of a wanted pod: every routing rule and route beside the table is there. Of another: any is. */
  readonly routing: boolean;
  /** Evidence of another mesh in the namespace or on the pod, as a sentence. */
  readonly foreign: string | null;
  /** The namespace that we captured last, or the one in its place; a promise to keep also while the engine is away. */
  readonly captured: NamespaceIdentity | null;
  readonly engine: EngineView;
  /** Result of the capture proof for these rules and this engine. */
  readonly proof: "none" | "proven" | Fault;
};

/** Nothing known yet: what a pod looks like when the daemon first hears of it. */
export const unobserved: Observed = {
  namespace: "unknown",
  rules: "unknown",
  routing: false,
  foreign: null,
  captured: null,
  engine: { connected: false, holds: null, added: false, draining: null, facts: null },
  proof: "none",
};

/** What to do next. Every step may be repeated without harm. */
export type Step =
  /** Read namespace identity, rules and routing again. */
  | { readonly do: "readBack" }
  /** Give the engine the namespace's descriptor. */
  | { readonly do: "handOver" }
  | { readonly do: "addPod" }
  /** The engine will say something by itself. `fault` is why the pod is not as desired meanwhile. */
  | { readonly do: "waitEngine"; readonly fault: Fault | null }
  /** Routing, then the whole table in one transaction. */
  | { readonly do: "applyRules" }
  | { readonly do: "prove" }
  | { readonly do: "applyHolder" }
  | { readonly do: "removePod"; readonly drainMilliseconds: number }
  /** The table first, then routing. Only without captured connections. */
  | { readonly do: "removeRules" }
  /** As desired. */
  | { readonly do: "nothing" }
  /** Not as desired and nothing that we may do about it but look again. */
  | { readonly do: "report"; readonly fault: Fault };
