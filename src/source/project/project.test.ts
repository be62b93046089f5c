import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parse } from "yaml";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import type { Pod, ServiceEntry } from "#mesh/objects.ts";
import { CONDITION_L4, OPERATION_L4, OPERATION_L7, SOURCE_L4, SOURCE_L7, SOURCE_NOWHERE } from "./authorization.ts";
import { formatPath } from "./problem.ts";
import { projectDocument } from "./project.ts";

const project = (text: string) => projectDocument(parse(text));
const policy = (spec: object, extra: object = {}) =>
  projectDocument({
    apiVersion: "security.istio.io/v1",
    kind: "AuthorizationPolicy",
    metadata: { name: "p", namespace: "shop", ...extra },
    spec,
  });
const fieldOf = (object: object | undefined, name: string): unknown => Object.entries(object ?? {}).find(([key]) => key === name)?.[1];
const TARGETS = { targetRefs: [{ kind: "Service", group: "", name: "web" }] };
const reasons = (problems: readonly { code: string; path: readonly (string | number)[] }[]) =>
  problems.map(({ code, path }) => `${code} ${formatPath(path)}`);

test("a pod without a status runs, is ready, and has defaults as the API server would give", () => {
  const { object } = project(
    `{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 80}, {containerPort: 53, protocol: UDP}], readinessProbe: {httpGet: {port: http}}, livenessProbe: {tcpSocket: {port: 81}}}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}`,
  );
  const { metadata, ...pod } = object as Pod;
  assert.match(metadata.uid, /^dir-[0-9a-f]{32}$/);
  assert.deepEqual(pod, {
    kind: "Pod",
    nodeName: "n1",
    serviceAccountName: "default",
    hostNetwork: false,
    phase: "Running",
    ready: true,
    podIPs: ["10.0.0.1", "fd00::1"],
    ports: [{ name: "http", port: 80 }],
    probePorts: [80, 81],
    clusterSearch: true,
    dnsSearch: [],
    owner: null,
    captured: null,
  });
});

test("every field of a source, an operation and a condition is projected, named as unenforceable, or refused", () => {
  for (const [targets, enforced] of [
    [{}, [...SOURCE_L4, ...OPERATION_L4, ...CONDITION_L4]],
    [TARGETS, [...SOURCE_L4, ...SOURCE_L7, ...OPERATION_L4, ...OPERATION_L7, ...CONDITION_L4, "request.headers[x]", "connection.sni"]],
  ] as [object, readonly string[]][]) {
    const told = (name: string, path: string): string[] => (enforced.includes(name) ? [] : [path]);
    for (const name of [...SOURCE_L4, ...SOURCE_L7, ...SOURCE_NOWHERE]) {
      const { object, problems } = policy({ ...targets, rules: [{ from: [{ source: { [name]: ["x"] } }] }] });
      assert.deepEqual(problems, []);
      const { rules, unenforceable } = object as AuthorizationPolicy;
      assert.deepEqual(unenforceable, told(name, `spec.rules[0].from[0].source.${name}`));
      if (enforced.includes(name)) assert.deepEqual(fieldOf(rules[0]?.from[0], name), ["x"]);
    }
    for (const name of [...OPERATION_L4, ...OPERATION_L7]) {
      const { object } = policy({ ...targets, rules: [{ to: [{ operation: { [name]: ["1"] } }] }] });
      const { rules, unenforceable } = object as AuthorizationPolicy;
      assert.deepEqual(unenforceable, told(name, `spec.rules[0].to[0].operation.${name}`));
      if (enforced.includes(name)) assert.deepEqual(fieldOf(rules[0]?.to[0], name), ["1"]);
    }
    for (const key of [...CONDITION_L4, "request.headers[x]", "connection.sni"]) {
      const { object } = policy({ ...targets, rules: [{ when: [{ key, values: ["1"] }] }] });
      const { rules, unenforceable } = object as AuthorizationPolicy;
      assert.deepEqual(unenforceable, told(key, "spec.rules[0].when[0].key"));
      assert.deepEqual(rules[0]?.when, [{ key, values: ["1"], notValues: [] }]);
    }
  }
});

test("targets are Services, Gateways, ServiceEntries and classes of the policy's own namespace, written once or as a list", () => {
  const targetsOf = (spec: object): unknown => (policy(spec).object as AuthorizationPolicy | null)?.targets;
  const web = { group: "", kind: "Service", name: "web", sectionName: "" };
  const { sectionName: _, ...written } = web;
  assert.deepEqual(targetsOf({ targetRef: { ...written, group: "core" } }), [web]);
  assert.deepEqual(
    targetsOf({
      targetRefs: [
        { kind: "Service", name: "web" },
        { ...written, namespace: "shop" },
      ],
    }),
    [web, web],
  );
  assert.equal(targetsOf({ action: "CUSTOM", provider: { name: "opa" }, ...TARGETS }) === undefined, false);
  const wrong: [object, string][] = [
    [{ targetRef: written, targetRefs: [written] }, "spec.targetRef"],
    [{ ...TARGETS, selector: { matchLabels: { a: "b" } } }, "spec.selector"],
    [{ targetRefs: [{ ...written, namespace: "other" }] }, "spec.targetRefs[0].namespace"],
    [{ targetRefs: [written, { ...written, kind: "Pod" }] }, "spec.targetRefs[1].kind"],
    [{ targetRefs: [] }, "spec.targetRefs"],
    [{ targetRefs: [{ ...written, sectionName: "http" }] }, "spec.targetRefs[0].sectionName"],
    [{ action: "CUSTOM", ...TARGETS }, "spec.provider"],
    [{ action: "DENY", provider: { name: "opa" }, ...TARGETS }, "spec.provider"],
    [{ action: "CUSTOM", provider: { name: "opa" } }, "spec.action"],
    [{ action: "AUDIT" }, "spec.action"],
  ];
  for (const [spec, field] of wrong)
    assert.deepEqual(
      policy(spec).problems.map(({ path }) => formatPath(path)),
      [field],
      JSON.stringify(spec),
    );
});

const jwt = (spec: object) =>
  projectDocument({ apiVersion: "security.istio.io/v1", kind: "RequestAuthentication", metadata: { name: "j", namespace: "shop" }, spec });

test("every field of a JWT rule is read, and a rule that could verify nothing is refused", () => {
  const rule = { issuer: "https://id.example", jwksUri: "https://id.example/keys" };
  const fields: [object, string, unknown][] = [
    [{ audiences: ["a"] }, "audiences", ["a"]],
    [{ fromHeaders: [{ name: "x-jwt" }] }, "fromHeaders", [{ name: "x-jwt", prefix: "" }]],
    [{ fromParams: ["t"] }, "fromParams", ["t"]],
    [{ fromCookies: ["c"] }, "fromCookies", ["c"]],
    [{ forwardOriginalToken: true }, "forwardOriginalToken", true],
    [{ outputPayloadToHeader: "x-p" }, "outputPayloadToHeader", "x-p"],
    [{ outputClaimToHeaders: [{ header: "x-c", claim: "c" }] }, "outputClaimToHeaders", [{ header: "x-c", claim: "c" }]],
    [{ spaceDelimitedClaims: ["scp"] }, "spaceDelimitedClaims", ["scp"]],
    [{ timeout: "1.5s" }, "timeoutMilliseconds", 1500],
    [{ timeout: "20ms" }, "timeoutMilliseconds", 20],
    [{}, "jwksUri", "https://id.example/keys"],
    [{ jwksUri: undefined, jwks_uri: "http://id.svc/keys" }, "jwksUri", "http://id.svc/keys"],
    [{ jwksUri: undefined, jwks: '{"keys":[]}' }, "jwks", '{"keys":[]}'],
    [{ jwksUri: undefined }, "issuer", "https://id.example"],
  ];
  for (const [more, field, expected] of fields) {
    const { object, problems } = jwt({ ...TARGETS, jwtRules: [JSON.parse(JSON.stringify({ ...rule, ...more }))] });
    assert.deepEqual(problems, [], field);
    assert.ok(object?.kind === "RequestAuthentication");
    assert.deepEqual(fieldOf(object.jwtRules[0], field), expected);
  }
  const wrong: [object, string][] = [
    [{ issuer: "" }, "issuer"],
    [{ jwksUri: "file:///etc/passwd" }, "jwksUri"],
    [{ jwksUri: "http://user:word@id.example/" }, "jwksUri"],
    [{ jwks: "{}" }, "jwks"],
    [{ jwksUri: undefined, jwks: "not JSON" }, "jwks"],
    [{ jwksUri: undefined, issuer: "somebody" }, "jwksUri"],
    [{ fromHeaders: [{ name: "a b" }] }, "fromHeaders[0].name"],
    [{ timeout: "soon" }, "timeout"],
    [{ tomorrow: 1 }, "tomorrow"],
  ];
  for (const [more, field] of wrong) {
    const { object, problems, standIn } = jwt({ ...TARGETS, jwtRules: [JSON.parse(JSON.stringify({ ...rule, ...more }))] });
    assert.equal(object, null, field);
    assert.ok(
      problems.some(({ path }) => formatPath(path) === `spec.jwtRules[0].${field}`),
      `${field}: ${JSON.stringify(problems)}`,
    );
    assert.ok(standIn?.kind === "RequestAuthentication" && standIn.unenforceable.length > 0 && standIn.targets.length === 1);
  }
});

test("a policy field that is not in the schema is refused wherever it stands", () => {
  const known = new Set<string>([...SOURCE_L4, ...SOURCE_L7, ...OPERATION_L4, ...OPERATION_L7, "__proto__"]);
  const name = fc
    .string({ minLength: 1 })
    .filter(
      (text) =>
        !known.has(text) &&
        ![
          "from",
          "to",
          "when",
          "source",
          "operation",
          "key",
          "values",
          "notValues",
          "selector",
          "action",
          "rules",
          "targetRef",
          "targetRefs",
          "provider",
          "matchLabels",
        ].includes(text),
    );
  fc.assert(
    fc.property(name, fc.integer({ min: 0, max: 5 }), (field, place) => {
      const extra = (at: number): object => (at === place ? { [field]: ["x"] } : {});
      const spec = {
        ...extra(0),
        selector: { matchLabels: { a: "b" }, ...extra(1) },
        action: "DENY",
        rules: [
          {
            ...extra(2),
            from: [{ source: { namespaces: ["a"], ...extra(3) }, ...extra(4) }],
            when: [{ key: "source.ip", values: ["1.1.1.1"], ...extra(5) }],
          },
        ],
      };
      const { object, problems, standIn } = policy(spec);
      assert.equal(object, null);
      assert.equal(problems[0]?.code, "E_SOURCE_UNSUPPORTED");
      assert.equal(problems[0]?.path.at(-1), field);
      assert.ok(standIn?.kind === "AuthorizationPolicy" && standIn.action === "DENY" && standIn.unenforceable.length > 0);
    }),
  );
});

test("what could be read as anybody is refused: empty lists, empty objects, fields without a value", () => {
  for (const spec of [
    { rules: [{ from: null }] },
    { rules: [{ from: [] }] },
    { rules: [{ from: [{ source: {} }] }] },
    { rules: [{ from: [{ source: { principals: [] } }] }] },
    { rules: [{ from: [{ source: { principals: [""] } }] }] },
    { rules: [{ to: [{ operation: {} }] }] },
    { rules: [{ when: [{ key: "source.ip" }] }] },
    { rules: [null] },
    { rules: null },
    { selector: null, rules: [] },
    { rules: [{ to: [{ operation: { ports: [80] } }] }] },
    { action: "Deny" },
  ]) {
    const { object, problems, standIn } = policy(spec);
    assert.equal(object, null, JSON.stringify(spec));
    assert.ok(problems.length > 0);
    assert.ok(standIn !== null);
  }
});

test("a policy that was never valid stands in closed for what it selects; AUDIT and targetRefs deny nobody", () => {
  const { standIn } = policy(
    { selector: { matchLabels: { app: "web" } }, action: "ALLOW", rulez: [] },
    { annotations: { "istio.io/dry-run": "true" } },
  );
  assert.ok(standIn?.kind === "AuthorizationPolicy");
  assert.deepEqual(
    [standIn.selector, standIn.action, standIn.unenforceable, standIn.dryRun],
    [{ app: "web" }, "DENY", ["spec.rulez"], true],
  );
  for (const spec of [{ action: "AUDIT" }, { targetRefs: [{}] }, { targetRef: {} }]) {
    const audit = policy(spec);
    assert.deepEqual([audit.object, audit.standIn, audit.problems.length > 0], [null, null, true]);
  }
  assert.ok(policy({ action: "CUSTOM", provider: { name: "x" } }).standIn !== null);
  const closed = policy({ ...TARGETS, rulez: [] }).standIn;
  assert.ok(closed?.kind === "AuthorizationPolicy" && closed.action === "DENY" && closed.targets.length === 1);
});

test("a PeerAuthentication keeps its port modes, needs a selector for them, and stands in STRICT when it is not valid", () => {
  const peer = (spec: string) =>
    project(`{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, metadata: {name: p, namespace: shop}, spec: ${spec}}`);
  const { object } = peer("{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}");
  assert.ok(object?.kind === "PeerAuthentication");
  assert.deepEqual([object.mode, object.portModes], ["STRICT", { 80: "PERMISSIVE" }]);
  for (const spec of [
    "{portLevelMtls: {80: {mode: STRICT}}}",
    "{mtls: {mode: strict}}",
    "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}",
    "{mtls: null}",
  ]) {
    const { object, standIn } = peer(spec);
    assert.equal(object, null, spec);
    assert.ok(standIn?.kind === "PeerAuthentication" && standIn.mode === "STRICT");
  }
});

test("unknown kinds and versions are named; kinds beside the mesh are ignored", () => {
  assert.deepEqual(reasons(project("{apiVersion: v1, kind: Wombat, metadata: {name: a}}").problems), ["E_SOURCE_UNSUPPORTED kind"]);
  assert.deepEqual(reasons(project("{apiVersion: v2, kind: Pod, metadata: {name: a}, spec: {}}").problems), [
    "E_SOURCE_UNSUPPORTED apiVersion",
  ]);
  assert.deepEqual(reasons(project("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}").problems), []);
  assert.deepEqual(reasons(project("{kind: Pod}").problems), ["E_SOURCE_INVALID apiVersion"]);
  assert.deepEqual(reasons(project("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: []}}").problems), [
    "E_SOURCE_INVALID spec.clusterIPs",
  ]);
  assert.deepEqual(reasons(project("[1, 2]").problems), ["E_SOURCE_INVALID "]);
});

test("no document makes the projection throw", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(
        "Pod",
        "Service",
        "Node",
        "Namespace",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "Gateway",
        "HTTPRoute",
        "TLSRoute",
      ),
      fc.object({ maxDepth: 4 }),
      fc.jsonValue(),
      (kind, fields, spec) => {
        projectDocument({
          apiVersion: /^(?:Gateway|.*Route)$/.test(kind)
            ? "gateway.networking.k8s.io/v1"
            : kind.endsWith("y") || kind.startsWith("Peer")
              ? "security.istio.io/v1"
              : "v1",
          kind,
          metadata: { name: "a" },
          spec,
          ...fields,
        });
      },
    ),
  );
});

test("a slice names the endpoints of a service; what a controller made of a selector is not read, host names are refused", () => {
  const slice = (more: object) =>
    projectDocument({ apiVersion: "discovery.k8s.io/v1", kind: "EndpointSlice", addressType: "IPv4", ...more });
  const labels = { "kubernetes.io/service-name": "kubernetes" };
  const endpoints = [
    { addresses: ["192.0.2.1"], conditions: { ready: true } },
    { addresses: ["192.0.2.2"], conditions: { ready: false } },
    { addresses: ["192.0.2.3"] },
  ];
  const ports = [
    { name: "https", port: 6443, protocol: "TCP" },
    { name: "udp", port: 53, protocol: "UDP" },
    { name: "any", port: null },
  ];
  const { object, problems } = slice({ metadata: { name: "s", namespace: "default", labels }, endpoints, ports });
  assert.deepEqual(problems, []);
  assert.ok(object?.kind === "EndpointSlice");
  assert.deepEqual(
    [object.service, object.endpoints.map(({ ready }) => ready), object.ports],
    ["kubernetes", [true, false, true], [{ name: "https", port: 6443 }]],
  );
  const managed = { ...labels, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" };
  assert.deepEqual(
    [slice({ metadata: { name: "s", labels: managed }, endpoints }).object, slice({ metadata: { name: "s" } }).object],
    [null, null],
  );
  assert.match(slice({ metadata: { name: "s", labels }, addressType: "FQDN", endpoints: [] }).problems[0]?.reason ?? "", /host names/);
  assert.match(
    slice({ metadata: { name: "s", labels }, endpoints: [{ addresses: ["nowhere"] }] }).problems[0]?.reason ?? "",
    /not an endpoint/,
  );
});

test("a ServiceEntry is projected whole, or refused with the field that stands against it", () => {
  const entry = (spec: object) =>
    projectDocument({
      apiVersion: "networking.istio.io/v1",
      kind: "ServiceEntry",
      metadata: { name: "e", namespace: "shop" },
      spec: { hosts: ["DB.example.com"], ports: [{ number: 5432, name: "tcp" }], ...spec },
    });
  const { object, problems } = entry({ resolution: "DNS_ROUND_ROBIN", exportTo: ["."], location: "MESH_INTERNAL" });
  assert.deepEqual(problems, []);
  const { metadata: _, ...rest } = object as ServiceEntry;
  assert.deepEqual(rest, {
    kind: "ServiceEntry",
    hosts: ["db.example.com"],
    addresses: [],
    ports: [{ name: "tcp", port: 5432, targetPort: 5432, protocol: "TCP" }],
    resolution: "DNS",
    endpoints: [],
    selector: {},
    subjectAltNames: [],
    exportTo: ["."],
    resolved: {},
  });
  const STATIC = { resolution: "STATIC", endpoints: [{ address: "192.0.2.1" }] };
  const cases: [object, string][] = [
    [{ resolution: "NONE" }, "E_SOURCE_INVALID spec.addresses"],
    [{ resolution: "NONE", addresses: ["192.0.2.1"], endpoints: [{ address: "192.0.2.2" }] }, "E_SOURCE_INVALID spec.resolution"],
    [{ resolution: "STATIC" }, "E_SOURCE_INVALID spec.endpoints"],
    [{ resolution: "STATIC", endpoints: [{ address: "db.example.com" }] }, "E_SOURCE_INVALID spec.endpoints[0].address"],
    [{ resolution: "STATIC", endpoints: [{ address: "unix:///x" }] }, "E_SOURCE_UNSUPPORTED spec.endpoints[0].address"],
    [{ resolution: "DYNAMIC_DNS" }, "E_SOURCE_UNSUPPORTED spec.resolution"],
    [{ resolution: "DNS", hosts: ["*.example.com"] }, "E_SOURCE_INVALID spec.hosts[0]"],
    [{ resolution: "DNS", workloadSelector: { labels: { app: "db" } } }, "E_SOURCE_INVALID spec.workloadSelector"],
    [{ ...STATIC, workloadSelector: { labels: { app: "db" } } }, "E_SOURCE_INVALID spec.endpoints"],
    [{ ...STATIC, exportTo: ["pay"] }, "E_SOURCE_UNSUPPORTED spec.exportTo[0]"],
    [{ ...STATIC, subjectAltNames: ["db.example.com"] }, "E_SOURCE_UNSUPPORTED spec.subjectAltNames[0]"],
    [{ ...STATIC, newField: 1 }, "E_SOURCE_UNSUPPORTED spec.newField"],
    [{ ...STATIC, hosts: ["no host"] }, "E_SOURCE_INVALID spec.hosts[0]"],
    [{ ...STATIC, addresses: ["10.0.0.0/99"] }, "E_SOURCE_INVALID spec.addresses[0]"],
    [{ ...STATIC, ports: [{ number: 1, name: "a", protocol: "UDP" }] }, "E_SOURCE_INVALID spec.ports[0].protocol"],
    [
      {
        ...STATIC,
        ports: [
          { number: 1, name: "a" },
          { number: 1, name: "b" },
        ],
      },
      "E_SOURCE_INVALID spec.ports",
    ],
    [{ resolution: "STATIC", endpoints: [{ address: "192.0.2.1", network: "far" }] }, "E_SOURCE_UNSUPPORTED spec.endpoints[0].network"],
    [
      { resolution: "STATIC", endpoints: [{ address: "192.0.2.1", serviceAccount: "x" }] },
      "E_SOURCE_UNSUPPORTED spec.endpoints[0].serviceAccount",
    ],
    [
      { resolution: "STATIC", endpoints: [{ address: "192.0.2.1", ports: { other: 1 } }] },
      "E_SOURCE_INVALID spec.endpoints[0].ports.other",
    ],
  ];
  for (const [spec, expected] of cases) {
    const { object, problems } = entry(spec);
    assert.equal(object, null, expected);
    assert.deepEqual(reasons(problems), [expected]);
  }
});
