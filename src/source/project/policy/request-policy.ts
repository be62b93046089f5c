// RequestPolicy documents: what becomes of requests for a service before they are sent on. Words are those of Envoy Gateway where it has one; what a
// request must be like is said as in an HTTPRoute.
import { z } from "zod";
import { parseCidr } from "#mesh/address.ts";
import type { RateLimitKey, RateLimitRule, RequestPolicy, RequestSelector } from "#mesh/traffic.ts";
import { formatPath, type Path, type Problem } from "../problem.ts";
import type { Notes } from "../route/filter.ts";
import { readHttpMatches } from "../route/match.ts";
import { policyProjector } from "./document.ts";
import { count, duration, ruled, text } from "./schema.ts";
import { readSession, sessionPersistence } from "./session-persistence.ts";
import { requestTargets, targetOf } from "./target.ts";

/** Of the contract with the engine (proto/traffic.proto), or enough for anybody. */
const MOST = {
  rules: 16,
  matches: 8,
  named: 8,
  clients: 32,
  requests: 1_000_000_000,
  keys: 4,
  buckets: 1_000_000,
  priorities: 8,
  body: 2 ** 40,
};
const UNITS = { Second: 1_000, Minute: 60_000, Hour: 3_600_000, Day: 86_400_000 } as const;
/** A lower bound would shed what waits for nobody. */
const LEAST_TOLERANCE = 110;

const headerName = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/);
const named = z.strictObject({ type: z.enum(["Exact", "RegularExpression"]).default("Exact"), name: headerName, value: text(1024) });
const match = z.strictObject({
  path: z
    .strictObject({ type: z.enum(["Exact", "PathPrefix", "RegularExpression"]).default("PathPrefix"), value: text(1024).default("/") })
    .prefault({}),
  method: z.enum(["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]).optional(),
  headers: z.array(named).max(MOST.named).default([]),
  queryParams: z.array(named).max(MOST.named).default([]),
});
const clients = z.strictObject({
  identities: z
    .array(
      z
        .string()
        .min(1)
        .max(1024)
        .regex(/^spiffe:\/\/[^*]+\*?$/),
    )
    .max(MOST.clients)
    .default([])
    .meta({ description: "From the client's certificate: spiffe://cluster.local/ns/shop/sa/web, or with * as its last character." }),
  namespaces: z.array(text(63)).max(MOST.clients).default([]),
  sourceCIDRs: z.array(text(64)).max(MOST.clients).default([]),
});
const selector = {
  matches: z.array(match).max(MOST.matches).default([]).meta({ description: "One of them must hold; none: every request.", default: [] }),
  clients: clients.optional().meta({ description: "Of each list that is not empty, one must hold." }),
};

const key = ruled(
  z.strictObject({
    type: z.enum(["Identity", "Namespace", "Header", "Path", "Method", "SourceIP", "Route"]),
    header: z.strictObject({ name: headerName }).optional(),
  }),
  {
    cel: "(self.type == 'Header') == has(self.header)",
    message: "header is for type Header, and needed there",
    holds: (one) => (one.type === "Header") === (one.header !== undefined),
  },
);

const rateLimit = ruled(
  z.strictObject({
    ...selector,
    limit: z.strictObject({
      requests: count(MOST.requests).meta({ description: "In each unit; 0: none is admitted." }),
      unit: z.enum(["Second", "Minute", "Hour", "Day"]),
    }),
    burst: count(MOST.requests).default(0).meta({ description: "At once, after a pause; 0: as many as requests.", default: 0 }),
    keys: z
      .array(key)
      .max(MOST.keys)
      .default([])
      .meta({ description: "Each combination of their values has a bucket of its own.", default: [] }),
    fair: z
      .boolean()
      .default(false)
      .meta({ description: "Identities that ask for more than is there get the same each; only without keys.", default: false }),
    maxKeys: count(MOST.buckets).default(0).meta({ description: "Buckets that are remembered; 0: 10000.", default: 0 }),
  }),
  {
    cel: "!(has(self.fair) && self.fair) || !has(self.keys) || size(self.keys) == 0",
    message: "fair is for one bucket that all share",
    holds: (one) => !one.fair || one.keys.length === 0,
  },
);

const loadShedding = z.strictObject({
  concurrencyLimit: ruled(
    z.strictObject({
      type: z.enum(["Fixed", "Adaptive"]).default("Adaptive"),
      fixed: z.strictObject({ maxParallelRequests: count(MOST.requests, 1) }).optional(),
      adaptive: ruled(
        z.strictObject({
          minLimit: count(1_000_000, 1).default(4),
          maxLimit: count(1_000_000, 1).default(1000),
          initialLimit: count(1_000_000, 1).default(20),
          tolerancePercent: count(1000, LEAST_TOLERANCE).default(150),
        }),
        {
          cel: "!has(self.minLimit) || !has(self.maxLimit) || self.minLimit <= self.maxLimit",
          message: "minLimit is above maxLimit",
          holds: (one) => one.minLimit <= one.maxLimit,
        },
      ).optional(),
    }),
    {
      cel: "(has(self.type) && self.type == 'Fixed') == has(self.fixed)",
      message: "fixed is for type Fixed, and needed there",
      holds: (one) => (one.type === "Fixed") === (one.fixed !== undefined),
    },
    {
      cel: "!has(self.adaptive) || !has(self.fixed)",
      message: "either fixed or adaptive",
      holds: (one) => one.adaptive === undefined || one.fixed === undefined,
    },
  ).prefault({}),
  priorities: z
    .array(z.strictObject({ ...selector, limitPercent: count(100, 1) }))
    .max(MOST.priorities)
    .default([])
    .meta({ description: "The first that a request meets: it is admitted while less than so much of the limit is in use.", default: [] }),
});

const percentage = z.number().min(0).max(100).default(100);
const faultInjection = ruled(
  z.strictObject({
    delay: z.strictObject({ fixedDelay: duration, percentage }).optional(),
    abort: ruled(z.strictObject({ httpStatus: count(599, 200).optional(), grpcStatus: count(16, 1).optional(), percentage }), {
      cel: "has(self.httpStatus) != has(self.grpcStatus)",
      message: "needs one of httpStatus and grpcStatus",
      holds: (one) => (one.httpStatus === undefined) !== (one.grpcStatus === undefined),
    }).optional(),
  }),
  {
    cel: "has(self.delay) || has(self.abort)",
    message: "needs delay or abort",
    holds: (one) => one.delay !== undefined || one.abort !== undefined,
  },
);

export const requestPolicySpec = z.strictObject({
  targetRefs: requestTargets,
  rateLimit: z
    .strictObject({
      type: z.enum(["Local"]).default("Local").meta({ description: "Each replica of a waypoint counts for itself.", default: "Local" }),
      local: z.strictObject({ rules: z.array(rateLimit).min(1).max(MOST.rules) }),
    })
    .optional(),
  loadShedding: loadShedding.optional(),
  faultInjection: faultInjection.optional(),
  limits: z
    .strictObject({
      maxBodyBytes: count(MOST.body).default(0),
      maxRequestsPerConnection: count(MOST.requests).default(0),
    })
    .optional()
    .meta({ description: "0: no limit." }),
  sessionPersistence: sessionPersistence.optional().meta({ description: "Instead of what a BackendPolicy says." }),
});

type Spec = z.output<typeof requestPolicySpec>;

export const projectRequestPolicy = policyProjector<RequestPolicy, Spec>({
  kind: "RequestPolicy",
  spec: requestPolicySpec,
  targets: ({ targetRefs }) => targetRefs.map(targetOf),
  readTargets: (raw) => z.object({ targetRefs: requestTargets }).safeParse(raw).data?.targetRefs.map(targetOf) ?? [],
  read: ({ rateLimit, loadShedding, faultInjection, limits, sessionPersistence }, head, problems) => ({
    kind: "RequestPolicy",
    ...head,
    rateLimits: (rateLimit?.local.rules ?? []).map((one, i) => rateOf(one, ["spec", "rateLimit", "local", "rules", i], problems)),
    loadShedding: loadShedding === undefined ? null : sheddingOf(loadShedding, problems),
    faultInjection:
      faultInjection === undefined
        ? null
        : {
            delay:
              faultInjection.delay === undefined
                ? null
                : { fixedDelayMilliseconds: faultInjection.delay.fixedDelay, percentage: faultInjection.delay.percentage },
            abort:
              faultInjection.abort === undefined
                ? null
                : {
                    httpStatus: faultInjection.abort.httpStatus ?? null,
                    grpcStatus: faultInjection.abort.grpcStatus ?? null,
                    percentage: faultInjection.abort.percentage,
                  },
          },
    limits: limits ?? null,
    sessionPersistence: sessionPersistence === undefined ? null : readSession(sessionPersistence),
  }),
  empty: (head) => ({
    kind: "RequestPolicy",
    ...head,
    rateLimits: [],
    loadShedding: null,
    faultInjection: null,
    limits: null,
    sessionPersistence: null,
  }),
});

type Selecting = { readonly matches: z.output<typeof match>[]; readonly clients?: z.output<typeof clients> | undefined };

function selectorOf({ matches, clients }: Selecting, at: Path, problems: Problem[]): RequestSelector {
  const notes: Notes = { namespace: "", unsupported: [], problems };
  const read =
    matches.length === 0
      ? []
      : readHttpMatches(
          matches.map((one) => ({ ...one, method: one.method ?? "" })),
          [...at, "matches"],
          notes,
        );
  // What a route would be told as its status is a mistake here: nothing of a policy is in force without the rest.
  for (const { field, reason } of notes.unsupported) problems.push({ code: "E_SOURCE_UNSUPPORTED", path: [field], reason });
  const { identities = [], namespaces = [], sourceCIDRs = [] } = clients ?? {};
  for (const [i, block] of sourceCIDRs.entries())
    if (parseCidr(block) === null)
      problems.push({ code: "E_SOURCE_INVALID", path: [formatPath([...at, "clients", "sourceCIDRs", i])], reason: "must be a CIDR block" });
  return { matches: read, identities, namespaces, sourceCIDRs };
}

function rateOf(written: z.output<typeof rateLimit>, at: Path, problems: Problem[]): RateLimitRule {
  const { limit, burst, keys, fair, maxKeys } = written;
  return {
    ...selectorOf(written, at, problems),
    requests: limit.requests,
    intervalMilliseconds: UNITS[limit.unit],
    burst,
    keys: keys.map(({ type, header }): RateLimitKey => (type === "Header" ? { type, name: header?.name ?? "" } : { type })),
    fair,
    maxKeys,
  };
}

function sheddingOf({ concurrencyLimit, priorities }: z.output<typeof loadShedding>, problems: Problem[]): RequestPolicy["loadShedding"] {
  const { type, fixed, adaptive } = concurrencyLimit;
  const zero = { minLimit: 0, maxLimit: 0, initialLimit: 0, tolerancePercent: 0 };
  return {
    limit: type === "Fixed" ? { type, maxParallelRequests: fixed?.maxParallelRequests ?? 0 } : { type, ...zero, ...adaptive },
    priorities: priorities.map((one, i) => ({
      ...selectorOf(one, ["spec", "loadShedding", "priorities", i], problems),
      limitPercent: one.limitPercent,
    })),
  };
}
