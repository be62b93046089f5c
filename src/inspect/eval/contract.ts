// The lines that `trackbed-engine eval` reads and writes (docs/explain.md): what is asked of the functions that decide, and what they say.

export type EvalSettings = {
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly network: string;
  readonly encryptSameNode: boolean;
};

/** `routes` and `access` are what waypoints hold: where a connection goes does not depend on them. */
export type EvalType = "address" | "authorization" | "routes" | "access";

export type EvalResource = {
  readonly type: EvalType;
  readonly name: string;
  readonly version: string;
  /** The encoded message as engines get it, Base64. */
  readonly body: string;
};

export type EvalState = {
  readonly upsert: readonly EvalResource[];
  readonly remove: readonly { readonly type: EvalType; readonly name: string }[];
};

/** What becomes of a connection, and why. */
export type Connect = {
  readonly id: string;
  /** A workload by its uid, or the address of somebody outside the mesh. */
  readonly source: { readonly workload: string } | { readonly address: string };
  /** An address, or a name as the client would say it. */
  readonly host: string;
  readonly port: number;
  /** What a waypoint on the way would be asked. */
  readonly request?: AskedRequest;
};

export type AskedRequest = {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
};

/** Whether the destination's engine admits a client. */
export type Admit = {
  readonly id: string;
  /** spiffe://…; null = plaintext. */
  readonly identity: string | null;
  /** Null = not known. */
  readonly address: string | null;
  /** Uid of the destination. */
  readonly workload: string;
  /** Where its application listens. */
  readonly port: number;
};

/** Whether a waypoint would admit a request that was recorded. Null: the record does not say. */
export type Replay = {
  readonly id: string;
  /** spiffe://…; null = the client had none. */
  readonly identity: string | null;
  readonly address: string | null;
  /** "namespace/hostname"; "*" = a pod by its own address. */
  readonly service: string;
  readonly port: number | null;
  readonly method: string | null;
  readonly authority: string | null;
  /** Without the query. */
  readonly path: string | null;
  /** Token rules are the same as when they let it pass. */
  readonly tokenPassed: boolean;
};

export type EvalLine =
  | { readonly settings: EvalSettings }
  | { readonly state: EvalState }
  | { readonly connect: Connect }
  | { readonly admit: Admit }
  | { readonly replay: Replay };

/** `failed`: for another reason than policy. `depends`: on what is not known, such as the endpoint or the client's address. */
export type Verdict = "allowed" | "denied" | "failed" | "depends";

export type PolicyRef = {
  /** "namespace/name" */
  readonly name: string;
  /** Null where no rule matched. */
  readonly rule: number | null;
};

export type Judgement = {
  readonly verdict: Verdict;
  /** Empty when it is allowed. */
  readonly code: string;
  readonly reason: string;
  /** The policy that decided. */
  readonly policy: PolicyRef | null;
  /** Why it would be refused were dry-run policies enforced. */
  readonly audit: { readonly code: string; readonly policy: PolicyRef; readonly reason: string } | null;
};

/** In the order of strength: what a stronger one says counts. */
export type Effect = "denies" | "invalid" | "unknown" | "allows" | "allowsOthers" | "deniesOthers" | "asks";

export type Considered = {
  readonly policy: PolicyRef;
  readonly effect: Effect;
  readonly dryRun: boolean;
  readonly rules: readonly {
    readonly rule: number;
    readonly matches: boolean;
    readonly misses: readonly { readonly field: string; readonly wants: string; readonly has: string }[];
  }[];
};

export type Way = Judgement & {
  readonly path: "relay" | "tunnel" | "waypoint" | "plain";
  /** Uid of the workload that is dialled; null = the mesh knows nobody there. */
  readonly endpoint: string | null;
  readonly node: string | null;
  /** Where the application is, or what the waypoint is asked for. */
  readonly address: string;
  readonly dial: string | null;
  readonly accept: readonly string[];
  readonly considered: readonly Considered[];
  /** From a waypoint on. */
  /** What a waypoint is asked for. */
  readonly serves: readonly [service: string, port: number] | null;
  readonly behind: readonly Way[];
};

/** What the waypoints of a service make of the request. */
export type ToldRequest = Judgement & {
  readonly service: string;
  readonly port: number;
  readonly considered: readonly {
    readonly policy: PolicyRef;
    readonly effect: Effect;
    readonly dryRun: boolean;
    readonly rules: readonly {
      readonly matches: boolean;
      readonly clause: number | null;
      /** Of each alternative in the clause the field that does not hold. */
      readonly fields: readonly string[];
    }[];
  }[];
  /** External authorization that is asked first, "PROVIDER by POLICY". */
  readonly asked: readonly string[];
  /** "HTTPRoute/namespace/name/index"; null = no route is attached, or it does not come so far. */
  readonly route: string | null;
  readonly backends: readonly { readonly service: string; readonly port: number; readonly weight: number }[];
};

export type Resolution = {
  readonly hostname: string | null;
  readonly addresses: readonly string[];
  /** "namespace/hostname" */
  readonly service: string | null;
  readonly waypoints: readonly string[];
  readonly endpoints: readonly {
    readonly workload: string;
    readonly addresses: readonly string[];
    readonly port: number | null;
    readonly node: string;
    readonly inMesh: boolean;
    /** Lower is nearer; null = it cannot be chosen. */
    readonly rank: number | null;
    readonly unusable: "failed" | "elsewhere" | "unhealthy" | "withoutPort" | "far" | null;
  }[];
  readonly moreEndpoints: number;
};

export type ConnectAnswer = Judgement & {
  readonly id: string;
  /** Null when the name is not one of the mesh. */
  readonly resolution: Resolution | null;
  readonly ways: readonly Way[];
  readonly moreWays: boolean;
  /** Of each waypoint's service; empty when no request was asked about, no waypoint is on the way, or the state has no routes. */
  readonly requests: readonly ToldRequest[];
};

export type AdmitAnswer = Judgement & { readonly id: string };

/** `depends`: what would have to be known, fields as the wire calls them and providers that are asked. */
export type ReplayAnswer = Judgement & { readonly id: string; readonly depends: readonly string[] };

/** A resource that no engine could use; a policy then denies what it could apply to. */
export type RejectedResource = { readonly name: string; readonly code: string; readonly reason: string };

export type EvalAnswer =
  | { readonly state: { readonly rejected: readonly RejectedResource[] } }
  | { readonly connect: ConnectAnswer }
  | { readonly admit: AdmitAnswer }
  | { readonly replay: ReplayAnswer };
