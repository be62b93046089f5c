// What becomes of requests when it gets too much, as people write it: BackendPolicy, about a service's endpoints, and RequestPolicy, about requests
// before they are sent on. Durations are milliseconds; null means that nothing is said, and the data plane's own default holds.
import type { TargetRef } from "./authorization.ts";
import type { Unsupported } from "./gateway.ts";
import type { ObjectMeta } from "./objects.ts";
import type { HttpMatch } from "./route.ts";

export type HashKey =
  | { readonly type: "Header"; readonly name: string }
  | { readonly type: "QueryParam"; readonly name: string }
  | {
      readonly type: "Cookie";
      readonly name: string;
      /** Zero: none is made. */
      readonly ttlMilliseconds: number;
      readonly path: string;
      readonly attributes: readonly { readonly name: string; readonly value: string }[];
    }
  | { readonly type: "SourceIdentity" | "SourceIP" | "Hostname" };

export type LoadBalancer = {
  readonly type: "PeakEWMA" | "RoundRobin" | "LeastRequest" | "Random" | "ConsistentHash";
  readonly consistentHash: {
    readonly algorithm: "Maglev" | "RingHash";
    readonly keys: readonly HashKey[];
    readonly tableSize: number | null;
  } | null;
  readonly slowStart: { readonly windowMilliseconds: number; readonly aggression: number; readonly minimumPercent: number } | null;
};

export type SessionPersistence = {
  readonly type: "Cookie" | "Header";
  readonly sessionName: string;
  /** Zero: for as long as the client's own session. */
  readonly absoluteTimeoutMilliseconds: number;
};

export type HealthCheck = {
  readonly passive: {
    readonly consecutive5XxErrors: number;
    readonly consecutiveGatewayErrors: number;
    readonly consecutiveLocalOriginFailures: number;
    readonly splitExternalLocalOriginErrors: boolean;
    readonly successRate: {
      readonly minimumHosts: number;
      readonly requestVolume: number;
      readonly standardDeviationFactor: number;
    } | null;
    readonly intervalMilliseconds: number;
    readonly baseEjectionMilliseconds: number;
    readonly maxEjectionMilliseconds: number;
    readonly maxEjectionPercent: number;
  } | null;
  readonly panicThreshold: number;
};

export type CircuitBreaker = {
  readonly maxConnections: number;
  readonly maxPendingRequests: number;
  readonly maxParallelRequests: number;
  readonly maxParallelRetries: number;
  readonly maxRequestsPerConnection: number;
};

/** Zero, any of these: the default. */
export type BackendTimeout = {
  readonly connectMilliseconds: number;
  readonly idleMilliseconds: number;
  readonly maxConnectionMilliseconds: number;
};

type PolicyOf<K extends string> = {
  readonly kind: K;
  readonly metadata: ObjectMeta;
  readonly generation: number;
  readonly targets: readonly TargetRef[];
  /** Why it is not in force as written; then nothing of it is, but for its status. */
  readonly unsupported: readonly Unsupported[];
};

export type BackendPolicy = PolicyOf<"BackendPolicy"> & {
  readonly loadBalancer: LoadBalancer | null;
  readonly sessionPersistence: SessionPersistence | null;
  readonly healthCheck: HealthCheck | null;
  readonly circuitBreaker: CircuitBreaker | null;
  readonly timeout: BackendTimeout | null;
};

/** Of everything that is not empty, something must hold. */
export type RequestSelector = {
  readonly matches: readonly HttpMatch[];
  readonly identities: readonly string[];
  readonly namespaces: readonly string[];
  readonly sourceCIDRs: readonly string[];
};

export type RateLimitKey =
  | { readonly type: "Header"; readonly name: string }
  | { readonly type: "Identity" | "Namespace" | "Path" | "Method" | "SourceIP" | "Route" };

export type RateLimitRule = RequestSelector & {
  readonly requests: number;
  readonly intervalMilliseconds: number;
  readonly burst: number;
  readonly keys: readonly RateLimitKey[];
  readonly fair: boolean;
  readonly maxKeys: number;
};

export type LoadShedding = {
  readonly limit:
    | { readonly type: "Fixed"; readonly maxParallelRequests: number }
    | {
        readonly type: "Adaptive";
        readonly minLimit: number;
        readonly maxLimit: number;
        readonly initialLimit: number;
        readonly tolerancePercent: number;
      };
  readonly priorities: readonly (RequestSelector & { readonly limitPercent: number })[];
};

/** Percentages of a hundred, with four digits behind the point. */
export type FaultInjection = {
  readonly delay: { readonly fixedDelayMilliseconds: number; readonly percentage: number } | null;
  readonly abort: { readonly httpStatus: number | null; readonly grpcStatus: number | null; readonly percentage: number } | null;
};

export type RequestPolicy = PolicyOf<"RequestPolicy"> & {
  readonly rateLimits: readonly RateLimitRule[];
  readonly loadShedding: LoadShedding | null;
  readonly faultInjection: FaultInjection | null;
  readonly limits: { readonly maxBodyBytes: number; readonly maxRequestsPerConnection: number } | null;
  readonly sessionPersistence: SessionPersistence | null;
};
