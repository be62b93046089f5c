// BackendPolicy documents: how requests are spread over a service's endpoints, and which endpoints are spared. Words are those of Envoy Gateway's
// BackendTrafficPolicy where it has one, of Istio's DestinationRule and of the Gateway API otherwise.
import { z } from "zod";
import type { BackendPolicy, HashKey, LoadBalancer } from "#mesh/traffic.ts";
import { policyProjector } from "./document.ts";
import { count, duration, ruled, text } from "./schema.ts";
import { readSession, sessionPersistence } from "./session-persistence.ts";
import { backendTargets, targetOf } from "./target.ts";

/** Of the contract with the engine (proto/traffic.proto). */
const MOST = { keys: 8, ring: 65_536, table: 1_000_003, attributes: 8, requests: 1_000_000_000, errors: 1_000_000 };
const MAGLEV_DEFAULT = 65_537;

const percent = count(100);
const header = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/);

const named = z.strictObject({ name: header });
const attribute = z.strictObject({
  name: header,
  value: z
    .string()
    .max(256)
    .regex(/^[^\r\n;]*$/)
    .default(""),
});
const cookie = z.strictObject({
  name: header,
  ttl: duration
    .optional()
    .meta({ description: "A request without the cookie is given one that lives for so long; left out: none is made." }),
  path: z
    .string()
    .max(1024)
    .regex(/^\/[^\r\n;]*$/)
    .optional(),
  attributes: z.array(attribute).max(MOST.attributes).default([]),
});

const KEY_FIELDS = { Header: "header", QueryParam: "queryParam", Cookie: "cookie" } as const;
const hashKey = ruled(
  z.strictObject({
    type: z.enum(["Header", "QueryParam", "Cookie", "SourceIdentity", "SourceIP", "Hostname"]),
    header: named.optional(),
    queryParam: z.strictObject({ name: text(256) }).optional(),
    cookie: cookie.optional(),
  }),
  ...Object.entries(KEY_FIELDS).map(([type, field]) => ({
    cel: `(self.type == '${type}') == has(self.${field})`,
    message: `${field} is for type ${type}, and needed there`,
    holds: (one: { readonly type: string }) =>
      (one.type === type) === (field in one && (one as Record<string, unknown>)[field] !== undefined),
  })),
);

const isPrime = (value: number): boolean => {
  for (let divisor = 2; divisor * divisor <= value; divisor++) if (value % divisor === 0) return false;
  return value > 1;
};

const consistentHash = z.strictObject({
  algorithm: z.enum(["Maglev", "RingHash"]).default("Maglev"),
  keys: z.array(hashKey).min(1).max(MOST.keys).meta({ description: "The first that the request has counts." }),
  tableSize: count(MOST.table, 2)
    .optional()
    .meta({ description: `Maglev: a prime, ${MAGLEV_DEFAULT} when left out. RingHash: points on the ring, at most ${MOST.ring}.` }),
});

const slowStart = z.strictObject({
  window: duration,
  aggression: z.number().min(0.1).max(10).default(1).meta({ description: "1: linear; greater: faster at first.", default: 1 }),
  minimumPercent: count(100, 1).default(10),
});

const loadBalancer = ruled(
  z.strictObject({
    type: z.enum(["PeakEWMA", "RoundRobin", "LeastRequest", "Random", "ConsistentHash"]).default("PeakEWMA"),
    consistentHash: consistentHash.optional(),
    slowStart: slowStart.optional(),
  }),
  {
    cel: "(has(self.type) && self.type == 'ConsistentHash') == has(self.consistentHash)",
    message: "consistentHash is for type ConsistentHash, and needed there",
    holds: (one) => (one.type === "ConsistentHash") === (one.consistentHash !== undefined),
  },
  {
    cel: "!has(self.consistentHash) || !has(self.slowStart)",
    message: "slowStart would move the clients of a consistent hash",
    holds: (one) => one.consistentHash === undefined || one.slowStart === undefined,
  },
  {
    cel: `!has(self.consistentHash) || !has(self.consistentHash.tableSize) || !has(self.consistentHash.algorithm) || self.consistentHash.algorithm != 'RingHash' || self.consistentHash.tableSize <= ${MOST.ring}`,
    message: `a ring has at most ${MOST.ring} points`,
    holds: ({ consistentHash }) =>
      consistentHash === undefined || consistentHash.algorithm !== "RingHash" || (consistentHash.tableSize ?? 0) <= MOST.ring,
  },
);

const passive = z.strictObject({
  consecutive5XxErrors: count(MOST.errors).default(0).meta({ description: "0: not looked at, as for all three.", default: 0 }),
  consecutiveGatewayErrors: count(MOST.errors).default(0),
  consecutiveLocalOriginFailures: count(MOST.errors).default(0),
  splitExternalLocalOriginErrors: z.boolean().default(false),
  successRate: z
    .strictObject({
      minimumHosts: count(10_000, 1).default(5),
      requestVolume: count(MOST.errors, 1).default(100),
      standardDeviationFactor: z.number().min(0).max(100).default(1.9),
    })
    .optional(),
  interval: duration.optional(),
  baseEjectionTime: duration.optional(),
  maxEjectionTime: duration.optional(),
  maxEjectionPercent: percent.default(10),
});

const limit = count(MOST.requests).default(0);
const circuitBreaker = z.strictObject({
  maxConnections: limit,
  maxPendingRequests: limit,
  maxParallelRequests: limit,
  maxParallelRetries: limit,
  maxRequestsPerConnection: limit,
});

const timeout = z.strictObject({
  tcp: z.strictObject({ connectTimeout: duration.optional() }).optional(),
  http: z.strictObject({ connectionIdleTimeout: duration.optional(), maxConnectionDuration: duration.optional() }).optional(),
});

export const backendPolicySpec = z.strictObject({
  targetRefs: backendTargets,
  loadBalancer: loadBalancer.optional(),
  sessionPersistence: sessionPersistence.optional(),
  healthCheck: z.strictObject({ passive: passive.optional(), panicThreshold: percent.default(0) }).optional(),
  circuitBreaker: circuitBreaker.optional().meta({ description: "0: no limit. What is beyond one is answered 503 at once." }),
  timeout: timeout.optional(),
});

type Spec = z.output<typeof backendPolicySpec>;

export const projectBackendPolicy = policyProjector<BackendPolicy, Spec>({
  kind: "BackendPolicy",
  spec: backendPolicySpec,
  targets: ({ targetRefs }) => targetRefs.map(targetOf),
  readTargets: (raw) => z.object({ targetRefs: backendTargets }).safeParse(raw).data?.targetRefs.map(targetOf) ?? [],
  read: ({ loadBalancer, sessionPersistence, healthCheck, circuitBreaker, timeout }, head, problems) => {
    const { algorithm, tableSize = MAGLEV_DEFAULT } = loadBalancer?.consistentHash ?? {};
    // CEL has no loop that could tell.
    if (algorithm === "Maglev" && !isPrime(tableSize))
      problems.push({
        code: "E_SOURCE_INVALID",
        path: ["spec", "loadBalancer", "consistentHash", "tableSize"],
        reason: "must be a prime for Maglev",
      });
    return {
      kind: "BackendPolicy",
      ...head,
      loadBalancer: loadBalancer === undefined ? null : balancerOf(loadBalancer),
      sessionPersistence: sessionPersistence === undefined ? null : readSession(sessionPersistence),
      healthCheck:
        healthCheck === undefined ? null : { panicThreshold: healthCheck.panicThreshold, passive: passiveOf(healthCheck.passive) },
      circuitBreaker: circuitBreaker ?? null,
      timeout:
        timeout === undefined
          ? null
          : {
              connectMilliseconds: timeout.tcp?.connectTimeout ?? 0,
              idleMilliseconds: timeout.http?.connectionIdleTimeout ?? 0,
              maxConnectionMilliseconds: timeout.http?.maxConnectionDuration ?? 0,
            },
    };
  },
  empty: (head) => ({
    kind: "BackendPolicy",
    ...head,
    loadBalancer: null,
    sessionPersistence: null,
    healthCheck: null,
    circuitBreaker: null,
    timeout: null,
  }),
});

const balancerOf = ({ type, consistentHash, slowStart }: NonNullable<Spec["loadBalancer"]>): LoadBalancer => ({
  type,
  consistentHash:
    consistentHash === undefined
      ? null
      : { algorithm: consistentHash.algorithm, keys: consistentHash.keys.map(keyOf), tableSize: consistentHash.tableSize ?? null },
  slowStart:
    slowStart === undefined
      ? null
      : { windowMilliseconds: slowStart.window, aggression: slowStart.aggression, minimumPercent: slowStart.minimumPercent },
});

function keyOf({ type, header, queryParam, cookie }: z.output<typeof hashKey>): HashKey {
  if (type === "Header") return { type, name: header?.name ?? "" };
  if (type === "QueryParam") return { type, name: queryParam?.name ?? "" };
  if (type !== "Cookie") return { type };
  return {
    type,
    name: cookie?.name ?? "",
    ttlMilliseconds: cookie?.ttl ?? 0,
    path: cookie?.path ?? "",
    attributes: cookie?.attributes ?? [],
  };
}

type Passive = NonNullable<NonNullable<Spec["healthCheck"]>["passive"]>;
type Read = NonNullable<BackendPolicy["healthCheck"]>["passive"];

function passiveOf(written: Passive | undefined): Read {
  if (written === undefined) return null;
  const { interval, baseEjectionTime, maxEjectionTime, successRate, ...rest } = written;
  return {
    ...rest,
    successRate: successRate ?? null,
    intervalMilliseconds: interval ?? 0,
    baseEjectionMilliseconds: baseEjectionTime ?? 0,
    maxEjectionMilliseconds: maxEjectionTime ?? 0,
  };
}
