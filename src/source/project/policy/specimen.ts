// For tests: documents of our own policies that are wrong, each with the rule that refuses it. This reader and a real API server must both refuse
// each (test/cluster/drills/4-policy.test.ts), and both take the valid ones.
type Fields = Readonly<Record<string, unknown>>;

export const TARGETS: Fields = { targetRefs: [{ group: "", kind: "Service", name: "web" }] };

const header = (name: string) => ({ type: "Header", header: { name } });
const limit = { requests: 10, unit: "Second" };
const rate = (more: Fields = {}): Fields => ({ ...TARGETS, rateLimit: { local: { rules: [{ limit, ...more }] } } });
const hash = (more: Fields): Fields => ({
  ...TARGETS,
  loadBalancer: { type: "ConsistentHash", consistentHash: { keys: [header("a")], ...more } },
});

export const VALID: readonly (readonly [kind: "BackendPolicy" | "RequestPolicy", spec: Fields])[] = [
  ["BackendPolicy", TARGETS],
  [
    "BackendPolicy",
    {
      targetRefs: [
        { kind: "Service", name: "web", sectionName: "http" },
        { kind: "Service", name: "web" },
      ],
    },
  ],
  ["BackendPolicy", hash({ algorithm: "RingHash", tableSize: 4096 })],
  [
    "BackendPolicy",
    hash({ keys: [{ type: "Cookie", cookie: { name: "c", ttl: "1h", attributes: [{ name: "Secure" }] } }, { type: "SourceIP" }] }),
  ],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { slowStart: { window: "30s", aggression: 1.5 } } }],
  ["BackendPolicy", { ...TARGETS, sessionPersistence: { absoluteTimeout: "1h", cookieConfig: { lifetimeType: "Permanent" } } }],
  ["BackendPolicy", { ...TARGETS, sessionPersistence: { type: "Header", sessionName: "x-session" } }],
  [
    "BackendPolicy",
    { ...TARGETS, healthCheck: { passive: { consecutive5XxErrors: 5, successRate: {}, interval: "10s" }, panicThreshold: 50 } },
  ],
  ["BackendPolicy", { ...TARGETS, circuitBreaker: { maxConnections: 10 }, timeout: { tcp: { connectTimeout: "1s" }, http: {} } }],
  ["RequestPolicy", rate({ keys: [{ type: "Identity" }, header("x-user")] })],
  ["RequestPolicy", rate({ fair: true, matches: [{ path: { value: "/api" }, method: "POST" }], clients: { namespaces: ["shop"] } })],
  ["RequestPolicy", { targetRefs: [{ group: "gateway.networking.k8s.io", kind: "HTTPRoute", name: "r", sectionName: "slow" }] }],
  ["RequestPolicy", { ...TARGETS, loadShedding: {} }],
  ["RequestPolicy", { ...TARGETS, loadShedding: { concurrencyLimit: { type: "Fixed", fixed: { maxParallelRequests: 5 } } } }],
  ["RequestPolicy", { ...TARGETS, faultInjection: { delay: { fixedDelay: "100ms", percentage: 0.5 }, abort: { grpcStatus: 14 } } }],
  ["RequestPolicy", { ...TARGETS, limits: { maxBodyBytes: 1048576 } }],
];

export const WRONG: readonly (readonly [kind: "BackendPolicy" | "RequestPolicy", spec: Fields, field: string])[] = [
  ["BackendPolicy", {}, "spec.targetRefs"],
  ["BackendPolicy", { targetRefs: [] }, "spec.targetRefs"],
  ["BackendPolicy", { targetRefs: [{ kind: "Pod", name: "web" }] }, "spec.targetRefs[0]"],
  ["BackendPolicy", { targetRefs: [{ group: "gateway.networking.k8s.io", kind: "Gateway", name: "gate" }] }, "spec.targetRefs[0]"],
  [
    "BackendPolicy",
    {
      targetRefs: [
        { kind: "Service", name: "web" },
        { group: "", kind: "Service", name: "web" },
      ],
    },
    "spec.targetRefs",
  ],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { type: "Fastest" } }, "spec.loadBalancer.type"],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { type: "ConsistentHash" } }, "spec.loadBalancer"],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { consistentHash: { keys: [header("a")] } } }, "spec.loadBalancer"],
  [
    "BackendPolicy",
    { ...hash({}), loadBalancer: { ...(hash({})["loadBalancer"] as Fields), slowStart: { window: "1s" } } },
    "spec.loadBalancer",
  ],
  ["BackendPolicy", hash({ keys: [] }), "spec.loadBalancer.consistentHash.keys"],
  ["BackendPolicy", hash({ keys: [{ type: "Header" }] }), "spec.loadBalancer.consistentHash.keys[0]"],
  ["BackendPolicy", hash({ keys: [{ type: "SourceIP", cookie: { name: "c" } }] }), "spec.loadBalancer.consistentHash.keys[0]"],
  ["BackendPolicy", hash({ algorithm: "RingHash", tableSize: 100_000 }), "spec.loadBalancer"],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { slowStart: { window: "soon" } } }, "spec.loadBalancer.slowStart.window"],
  ["BackendPolicy", { ...TARGETS, sessionPersistence: { absoluteTimeout: "1h" } }, "spec.sessionPersistence"],
  ["BackendPolicy", { ...TARGETS, sessionPersistence: { type: "Header", cookieConfig: {} } }, "spec.sessionPersistence"],
  ["BackendPolicy", { ...TARGETS, healthCheck: { panicThreshold: 101 } }, "spec.healthCheck.panicThreshold"],
  ["BackendPolicy", { ...TARGETS, circuitBreaker: { maxConnections: -1 } }, "spec.circuitBreaker.maxConnections"],
  ["RequestPolicy", { targetRefs: [{ group: "apps", kind: "Deployment", name: "web" }] }, "spec.targetRefs[0]"],
  [
    "RequestPolicy",
    { targetRefs: [{ group: "gateway.networking.k8s.io", kind: "Gateway", name: "gate", sectionName: "mesh" }] },
    "spec.targetRefs[0]",
  ],
  ["RequestPolicy", { ...TARGETS, rateLimit: { local: { rules: [] } } }, "spec.rateLimit.local.rules"],
  ["RequestPolicy", { ...TARGETS, rateLimit: { type: "Global", local: { rules: [{ limit }] } } }, "spec.rateLimit.type"],
  ["RequestPolicy", rate({ limit: { requests: 1, unit: "Week" } }), "spec.rateLimit.local.rules[0].limit.unit"],
  ["RequestPolicy", rate({ keys: [{ type: "Header" }] }), "spec.rateLimit.local.rules[0].keys[0]"],
  ["RequestPolicy", rate({ fair: true, keys: [{ type: "Path" }] }), "spec.rateLimit.local.rules[0]"],
  ["RequestPolicy", rate({ clients: { identities: ["cluster.local/ns/a/sa/b"] } }), "spec.rateLimit.local.rules[0].clients.identities[0]"],
  ["RequestPolicy", { ...TARGETS, loadShedding: { concurrencyLimit: { type: "Fixed" } } }, "spec.loadShedding.concurrencyLimit"],
  [
    "RequestPolicy",
    { ...TARGETS, loadShedding: { concurrencyLimit: { type: "Fixed", fixed: { maxParallelRequests: 1 }, adaptive: {} } } },
    "spec.loadShedding.concurrencyLimit",
  ],
  [
    "RequestPolicy",
    { ...TARGETS, loadShedding: { concurrencyLimit: { adaptive: { minLimit: 9, maxLimit: 8 } } } },
    "spec.loadShedding.concurrencyLimit.adaptive",
  ],
  ["RequestPolicy", { ...TARGETS, loadShedding: { priorities: [{ limitPercent: 0 }] } }, "spec.loadShedding.priorities[0].limitPercent"],
  ["RequestPolicy", { ...TARGETS, faultInjection: {} }, "spec.faultInjection"],
  ["RequestPolicy", { ...TARGETS, faultInjection: { abort: {} } }, "spec.faultInjection.abort"],
  ["RequestPolicy", { ...TARGETS, faultInjection: { abort: { httpStatus: 503, grpcStatus: 14 } } }, "spec.faultInjection.abort"],
  [
    "RequestPolicy",
    { ...TARGETS, faultInjection: { delay: { fixedDelay: "1s", percentage: 101 } } },
    "spec.faultInjection.delay.percentage",
  ],
];
