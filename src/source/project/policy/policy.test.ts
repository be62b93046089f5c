// Claims about BackendPolicy and RequestPolicy as they are read: every field of the schema says something, and what is wrong is told where it stands.
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatPath } from "../problem.ts";
import { projectDocument } from "../project.ts";
import { backendPolicySpec } from "./backend-policy.ts";
import { requestPolicySpec } from "./request-policy.ts";
import { openApi } from "./schema.ts";
import { TARGETS, VALID, WRONG } from "./specimen.ts";

const document = (kind: string, spec: unknown) => ({
  apiVersion: "trackbed.dev/v1alpha1",
  kind,
  metadata: { name: "p", namespace: "shop", generation: 4 },
  spec,
});

test("what is valid is read, and nobody has to mend it", () => {
  for (const [kind, spec] of VALID) {
    const { object, problems } = projectDocument(document(kind, spec));
    assert.deepEqual(problems, [], JSON.stringify(spec));
    assert.ok(object?.kind === kind && object.targets.length > 0 && object.generation === 4 && object.unsupported.length === 0);
  }
});

test("what is wrong is told where it stands, and stands for nothing but its own status", () => {
  for (const [kind, spec, field] of WRONG) {
    const { object, problems, standIn } = projectDocument(document(kind, spec));
    assert.equal(object, null, field);
    assert.ok(
      problems.some(({ path }) => formatPath(path) === field),
      `${field}: ${problems.map(({ path }) => formatPath(path)).join()} in ${JSON.stringify(spec)}`,
    );
    assert.ok(standIn?.kind === kind && standIn.unsupported.length === 1);
  }
});

test("what no schema can say is told too: a table that is no prime, a pattern that is none, a block that is none", () => {
  const hash = { keys: [{ type: "SourceIP" }], tableSize: 65_536 };
  const rules = (more: object) => ({ ...TARGETS, rateLimit: { local: { rules: [{ limit: { requests: 1, unit: "Second" }, ...more }] } } });
  const cases: [string, object, string][] = [
    [
      "BackendPolicy",
      { ...TARGETS, loadBalancer: { type: "ConsistentHash", consistentHash: hash } },
      "spec.loadBalancer.consistentHash.tableSize",
    ],
    ["RequestPolicy", rules({ clients: { sourceCIDRs: ["10.0.0.0/33"] } }), "spec.rateLimit.local.rules[0].clients.sourceCIDRs[0]"],
    ["RequestPolicy", rules({ matches: [{ path: { value: "a" } }] }), "spec.rateLimit.local.rules[0].matches[0].path.value"],
    [
      "RequestPolicy",
      rules({ matches: [{ headers: [{ type: "RegularExpression", name: "a", value: "(?=a)" }] }] }),
      "spec.rateLimit.local.rules[0].matches[0].headers[0].value",
    ],
  ];
  for (const [kind, spec, field] of cases)
    assert.deepEqual(
      projectDocument(document(kind, spec)).problems.map(({ path }) => formatPath(path)),
      [field],
    );
});

type Schema = {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly enum?: readonly unknown[];
  readonly maxItems?: number;
  readonly maxLength?: number;
  readonly maximum?: number;
  readonly pattern?: string;
  readonly default?: unknown;
};

const leaves = (schema: Schema, path = "spec"): [string, Schema][] =>
  schema.properties !== undefined
    ? [[path, schema], ...Object.entries(schema.properties).flatMap(([name, one]) => leaves(one, `${path}.${name}`))]
    : schema.items !== undefined
      ? [[path, schema], ...leaves(schema.items, `${path}[]`)]
      : [[path, schema]];

test("the definitions are structural and bounded: nothing of them is without a type, a length or a size", () => {
  for (const spec of [backendPolicySpec, requestPolicySpec])
    for (const [path, schema] of leaves(openApi(spec) as Schema)) {
      assert.ok(schema.type !== undefined, `${path} has no type`);
      if (schema.type === "array") assert.ok(schema.maxItems !== undefined, `${path} has no maxItems`);
      if (schema.type === "string")
        assert.ok(schema.enum !== undefined || schema.maxLength !== undefined || schema.pattern !== undefined, `${path} has no length`);
      if (schema.type === "integer" || schema.type === "number") assert.ok(schema.maximum !== undefined, `${path} has no maximum`);
    }
});

test("every field of the schema is read: the object is another with it than without", () => {
  const fields = [
    ["BackendPolicy", leaves(openApi(backendPolicySpec) as Schema)],
    ["RequestPolicy", leaves(openApi(requestPolicySpec) as Schema)],
  ] as const;
  const written = new Set<string>();
  const walk = (value: unknown, path: string): void => {
    written.add(path);
    if (Array.isArray(value)) for (const one of value) walk(one, `${path}[]`);
    else if (typeof value === "object" && value !== null) for (const [name, one] of Object.entries(value)) walk(one, `${path}.${name}`);
  };
  const readable = (kind: string, spec: unknown): string => JSON.stringify(projectDocument(document(kind, spec)).object);
  for (const [kind, spec] of [...VALID, ...MORE]) {
    walk(spec, `${kind} spec`);
    const schema = openApi(kind === "BackendPolicy" ? backendPolicySpec : requestPolicySpec) as Schema;
    for (const [path, without] of withoutEach(spec, schema))
      assert.notEqual(readable(kind, without), readable(kind, spec), `${kind} ${path} is ignored: ${JSON.stringify(spec)}`);
  }
  for (const [kind, all] of fields)
    for (const [path] of all) assert.ok(written.has(`${kind} ${path}`), `no document writes ${kind} ${path}: add one to MORE`);
});

/** The value without one of its fields, for each that does not say its default, nor nothing. */
function* withoutEach(value: unknown, schema: Schema, path = ""): Generator<[string, unknown]> {
  if (Array.isArray(value)) {
    for (const [i, one] of value.entries())
      for (const [at, without] of withoutEach(one, schema.items ?? {}, `${path}[${i}]`)) yield [at, value.with(i, without)];
  } else if (typeof value === "object" && value !== null) {
    for (const [name, one] of Object.entries(value)) {
      const inner = schema.properties?.[name] ?? {};
      const { [name]: _, ...rest } = value as Record<string, unknown>;
      const says = JSON.stringify(one) !== "{}" && JSON.stringify(one) !== JSON.stringify(inner.default);
      if (says && !(NOTHING.has(String(one)) || isDefaulted(one, inner))) yield [`${path}.${name}`, rest];
      for (const [at, without] of withoutEach(one, inner, `${path}.${name}`)) yield [at, { ...value, [name]: without }];
    }
  }
}

/** Of a Service's group, and of an attribute without a value. */
const NOTHING: ReadonlySet<string> = new Set([""]);

/** An object of nothing but defaults says as much as none. */
const isDefaulted = (value: unknown, { properties = {} }: Schema): boolean =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  Object.entries(value).every(([name, one]) => JSON.stringify(one) === JSON.stringify(properties[name]?.default));

/** Fields that VALID does not write, each with a value that is not its default. */
const SELECTOR = {
  matches: [
    {
      path: { type: "Exact", value: "/x" },
      method: "GET",
      headers: [{ type: "Exact", name: "a", value: "b" }],
      queryParams: [{ type: "Exact", name: "a", value: "b" }],
    },
  ],
  clients: { identities: ["spiffe://a/ns/b/*"], namespaces: ["shop"], sourceCIDRs: ["10.0.0.0/8"] },
};
const MORE: readonly (readonly [string, Record<string, unknown>])[] = [
  [
    "BackendPolicy",
    {
      targetRefs: [{ group: "networking.istio.io", kind: "ServiceEntry", name: "x", sectionName: "http" }],
      loadBalancer: {
        type: "ConsistentHash",
        consistentHash: {
          algorithm: "Maglev",
          tableSize: 251,
          keys: [
            { type: "QueryParam", queryParam: { name: "q" } },
            { type: "Header", header: { name: "h" } },
            { type: "Cookie", cookie: { name: "c", ttl: "1s", path: "/p", attributes: [{ name: "SameSite", value: "Strict" }] } },
          ],
        },
      },
      sessionPersistence: { type: "Cookie", sessionName: "s", absoluteTimeout: "1s", cookieConfig: { lifetimeType: "Permanent" } },
      healthCheck: {
        panicThreshold: 1,
        passive: {
          consecutive5XxErrors: 1,
          consecutiveGatewayErrors: 2,
          consecutiveLocalOriginFailures: 3,
          splitExternalLocalOriginErrors: true,
          successRate: { minimumHosts: 1, requestVolume: 2, standardDeviationFactor: 3 },
          interval: "1s",
          baseEjectionTime: "2s",
          maxEjectionTime: "3s",
          maxEjectionPercent: 4,
        },
      },
      circuitBreaker: {
        maxConnections: 1,
        maxPendingRequests: 2,
        maxParallelRequests: 3,
        maxParallelRetries: 4,
        maxRequestsPerConnection: 5,
      },
      timeout: { tcp: { connectTimeout: "1s" }, http: { connectionIdleTimeout: "2s", maxConnectionDuration: "3s" } },
    },
  ],
  ["BackendPolicy", { ...TARGETS, loadBalancer: { type: "LeastRequest", slowStart: { window: "1s", aggression: 2, minimumPercent: 3 } } }],
  [
    "RequestPolicy",
    {
      targetRefs: [{ group: "gateway.networking.k8s.io", kind: "HTTPRoute", name: "x", sectionName: "r" }],
      rateLimit: {
        type: "Local",
        local: {
          rules: [
            {
              ...SELECTOR,
              limit: { requests: 1, unit: "Hour" },
              burst: 2,
              keys: [{ type: "Header", header: { name: "h" } }],
              maxKeys: 3,
              fair: false,
            },
          ],
        },
      },
      loadShedding: {
        concurrencyLimit: { type: "Adaptive", adaptive: { minLimit: 1, maxLimit: 2, initialLimit: 2, tolerancePercent: 200 } },
        priorities: [{ ...SELECTOR, limitPercent: 50 }],
      },
      faultInjection: {
        delay: { fixedDelay: "1s", percentage: 1 },
        abort: { httpStatus: 500, percentage: 2 },
      },
      limits: { maxBodyBytes: 1, maxRequestsPerConnection: 2 },
      sessionPersistence: { type: "Cookie", sessionName: "s", absoluteTimeout: "1s", cookieConfig: { lifetimeType: "Permanent" } },
    },
  ],
];
