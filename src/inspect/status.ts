// What the daemon answers on GET /v1/status and GET /v1/pods/{namespace}/{name}: the node as JSON, for people and scripts.
import type { ErrorCode } from "#contract/tables.ts";

/** Where a pod stands. `leaving`: un-enrolled, its captured connections are still being carried. */
export type Phase = "absent" | "captured" | "ready" | "leaving";

/** Why something is not as desired. `next` is what the operator does about it. */
export type Problem = { readonly code: ErrorCode; readonly reason: string; readonly next: string /** RFC 3339 */; readonly since: string };

export type PodStatus = {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  /** spiffe://… that the pod has, or would have, in the mesh. */
  readonly identity: string;
  readonly addresses: readonly string[];
  /** What labels and life cycle ask for. */
  readonly desired: "enrolled" | "absent" | "deleted";
  readonly phase: Phase;
  /** Decimal; null when the namespace could not be read. */
  readonly netnsCookie: string | null;
  /** Facts from the engine, null when it does not hold the pod. */
  readonly engine: {
    readonly listening: boolean;
    readonly identity: boolean;
    readonly policy: boolean;
    /** RFC 3339, null without a certificate. */
    readonly certificateNotAfter: string | null;
  } | null;
  /** Captured connections that are open. */
  readonly connections: number;
  /** Connections from before the capture: not meshed until reopened. Null when they could not be counted. */
  readonly notMeshed: number | null;
  /** Null when everything is as desired. */
  readonly problem: Problem | null;
};

export type ConnectionStatus = {
  readonly connected: boolean /** RFC 3339 of the last change. */;
  readonly since: string;
  readonly problem: Problem | null;
};

/** A document of this node's source that is not in force. */
export type SourceProblem = {
  readonly code: ErrorCode;
  readonly file: string;
  readonly line: number;
  readonly field: string;
  readonly reason: string;
};

export type NodeStatus = {
  readonly node: string;
  readonly version: string;
  readonly trustDomain: string;
  /** RFC 3339: when this daemon started, and now. */
  readonly started: string;
  readonly time: string;
  /** As /healthz/ready answers: source read, state known, engine in sync. */
  readonly ready: boolean;
  readonly engine: ConnectionStatus & {
    readonly version: string | null;
    readonly instance: string | null;
    /** Generation sent and generation acknowledged. */
    readonly generation: string;
    readonly acknowledged: string;
    /** Resources that the engine could not use. */
    readonly rejected: readonly { readonly name: string; readonly code: string; readonly reason: string }[];
    /** Totals that the engine counts (ReportBatch.counters). */
    readonly counters: Readonly<Record<string, number>>;
  };
  readonly control: ConnectionStatus;
  /** Where the state in force came from. */
  readonly state: { readonly from: "none" | "snapshot" | "control"; readonly resources: number };
  readonly source: readonly SourceProblem[];
  readonly flows: { readonly received: number; readonly droppedByEngine: number; readonly kept: number };
  readonly pods: readonly PodStatus[];
};

/** One thing the daemon did to a pod, newest last. */
export type PodStep = {
  /** RFC 3339 */ readonly time: string;
  readonly step: string;
  readonly result: "done" | ErrorCode;
  readonly reason: string;
};

export type PodExplanation = PodStatus & {
  readonly node: string;
  readonly netnsPath: string | null;
  readonly observed: {
    readonly rules: string;
    readonly routing: boolean;
    readonly foreign: string | null;
    readonly proof: string;
    readonly handedOver: boolean;
    readonly draining: boolean;
  };
  /** The next step that the state machine would take now. */
  readonly nextStep: string;
  readonly steps: readonly PodStep[];
  /** Lines of the rules that differ, "- expected" and "+ found"; empty when they are equal or were not read. */
  readonly rulesDifference: readonly string[];
  /** What of others stands before our rules, and annotations that are not honoured. */
  readonly warnings: readonly string[];
};

/** Body of every answer that is not 2xx. */
export type AdminError = { readonly code: ErrorCode; readonly message: string; readonly next: string };

/** Body of POST /v1/log-level. `engine` is a tracing filter, `daemon` a pino level; what is missing stays. */
export type LogLevelRequest = { readonly daemon?: string; readonly engine?: string };
