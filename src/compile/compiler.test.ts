import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type Compiler, type CompilerSettings, createCompiler, type NodeUpdate } from "#compile/compiler.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "#compile/resource.ts";
import { Action, type Authorization, AuthorizationSchema } from "#contract/gen/istio/security_pb.ts";
import { AddressSchema, TunnelProtocol, type Service as WireService, type Workload } from "#contract/gen/istio/workload_pb.ts";
import type { AuthorizationPolicy, Labels, MeshObject, ObjectKey, ObjectMeta, PeerAuthentication, Pod, Service } from "#mesh/objects.ts";
import { keyOf } from "#mesh/objects.ts";

const settings: CompilerSettings = {
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  rootNamespace: "root",
  network: "",
  clusterId: "Kubernetes",
};
const ENABLED = { "trackbed.dev/mesh": "enabled" };

const meta = (namespace: string, name: string, labels: Labels = {}, creationTimestamp = ""): ObjectMeta => ({
  namespace,
  name,
  uid: `${namespace}-${name}`,
  labels,
  annotations: {},
  creationTimestamp,
});
/** Every object has an address of its own, the same whenever it is written. */
const numbers = new Map<string, number>();
const numberOf = (key: string): number => numbers.get(key) ?? numbers.set(key, numbers.size + 1).size;
const v4 = (block: string, key: string): string => `${block}.${numberOf(key) >> 8}.${numberOf(key) & 255}`;
const pod = (namespace: string, name: string, labels: Labels = {}, more: Partial<Pod> = {}): Pod => ({
  kind: "Pod",
  metadata: meta(namespace, name, labels),
  nodeName: "n1",
  serviceAccountName: "default",
  hostNetwork: false,
  phase: "Running",
  ready: true,
  podIPs: [v4("10.0", `${namespace}/${name}`), `fd00::${numberOf(`${namespace}/${name}`).toString(16)}`],
  ports: [{ name: "http", port: 8080 }],
  probePorts: [],
  clusterSearch: true,
  dnsSearch: [],
  owner: null,
  captured: null,
  ...more,
});
const service = (namespace: string, name: string, selector: Labels, more: Partial<Service> = {}): Service => ({
  kind: "Service",
  metadata: meta(namespace, name),
  type: "ClusterIP",
  clusterIPs: [v4("10.96", `Service ${namespace}/${name}`)],
  selector,
  ports: [{ name: "http", port: 80, targetPort: "http", protocol: "TCP", appProtocol: "" }],
  trafficDistribution: "",
  publishNotReadyAddresses: false,
  ...more,
});
const policy = (namespace: string, name: string, more: Partial<AuthorizationPolicy> = {}): AuthorizationPolicy => ({
  kind: "AuthorizationPolicy",
  metadata: meta(namespace, name),
  action: "ALLOW",
  selector: {},
  rules: [],
  unenforceable: [],
  dryRun: false,
  ...more,
});
const peer = (
  namespace: string,
  name: string,
  mode: PeerAuthentication["mode"],
  more: Partial<PeerAuthentication> = {},
): PeerAuthentication => ({
  kind: "PeerAuthentication",
  metadata: meta(namespace, name),
  selector: {},
  mode,
  portModes: {},
  ...more,
});
const namespace = (name: string, labels: Labels = {}): MeshObject => ({ kind: "Namespace", metadata: meta("", name, labels) });

const put = (...objects: MeshObject[]) => ({ reset: false, put: objects, remove: [] as ObjectKey[] });
const remove = (...objects: MeshObject[]) => ({ reset: false, put: [] as MeshObject[], remove: objects.map(keyOf) });

/** A compiler and what a node that applied its deltas in order would hold. */
function held(compiler: Compiler = createCompiler(settings)) {
  const resources = new Map<string, Uint8Array>();
  const apply = (change: Parameters<Compiler["apply"]>[0], nodes?: readonly NodeUpdate[]): number => {
    const { deltas, recompiled } = compiler.apply(change, nodes);
    for (const { typeUrl, upsert, remove } of deltas) {
      for (const { name, body } of upsert) resources.set(`${typeUrl} ${name}`, body);
      for (const name of remove) assert.ok(resources.delete(`${typeUrl} ${name}`), `${name} is removed but was never sent`);
    }
    return recompiled;
  };
  const address = (name: string) => {
    const body = resources.get(`${ADDRESS_TYPE} ${name}`);
    return body === undefined ? undefined : fromBinary(AddressSchema, body).type;
  };
  return {
    compiler,
    resources,
    apply,
    workload: (namespace: string, name: string): Workload | undefined => {
      const found = address(`Kubernetes//Pod/${namespace}/${name}`);
      return found?.case === "workload" ? found.value : undefined;
    },
    service: (name: string): WireService | undefined => {
      const found = address(name);
      return found?.case === "service" ? found.value : undefined;
    },
    policy: (name: string): Authorization | undefined => {
      const body = resources.get(`${AUTHORIZATION_TYPE} ${name}`);
      return body === undefined ? undefined : fromBinary(AuthorizationSchema, body);
    },
  };
}

test("a workload carries its services with the endpoint's own ports, and its locality", () => {
  const mesh = held();
  mesh.apply(
    put(
      {
        kind: "Node",
        metadata: meta("", "n1", { "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z" }),
        addresses: [],
        podCIDRs: [],
      },
      pod("shop", "web-1", { app: "web", "pod-template-hash": "5d4" }, { owner: { kind: "ReplicaSet", name: "web-5d4" } }),
      service(
        "shop",
        "web",
        { app: "web" },
        {
          ports: [
            ...service("", "", {}).ports,
            { name: "other", port: 81, targetPort: "missing", protocol: "TCP", appProtocol: "" },
            { name: "dns", port: 53, targetPort: 53, protocol: "UDP", appProtocol: "" },
          ],
        },
      ),
      service("other", "web", { app: "web" }),
    ),
  );
  const workload = mesh.workload("shop", "web-1");
  assert.deepEqual(
    [workload?.workloadName, workload?.workloadType, workload?.canonicalName, workload?.canonicalRevision],
    ["web", 0, "web", "latest"],
  );
  assert.deepEqual([workload?.locality?.region, workload?.locality?.zone], ["r", "z"]);
  assert.deepEqual(
    Object.entries(workload?.services ?? {}).map(([name, { ports }]) => [
      name,
      ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    ]),
    [["shop/web.shop.svc.cluster.local", [[80, 8080]]]],
  );
  const web = mesh.service("shop/web.shop.svc.cluster.local");
  assert.deepEqual(
    web?.ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    [
      [80, 0],
      [81, 0],
    ],
  );
  const [first] = [...mesh.compiler.resources(ADDRESS_TYPE)].filter(({ name }) => name.startsWith("Kubernetes//"));
  assert.deepEqual(first?.aliases, ["/10.0.0.1", "/fd00::1"]);
});

test("pods that are over or have no address are nobody; hostNetwork pods are not found by address", () => {
  const mesh = held();
  mesh.apply(
    put(
      pod("a", "done", {}, { phase: "Succeeded" }),
      pod("a", "new", {}, { podIPs: [] }),
      pod("a", "host", ENABLED, { hostNetwork: true }),
    ),
  );
  assert.deepEqual([mesh.workload("a", "done"), mesh.workload("a", "new")], [undefined, undefined]);
  assert.deepEqual([mesh.workload("a", "host")?.networkMode, mesh.workload("a", "host")?.tunnelProtocol], [1, TunnelProtocol.NONE]);
  assert.deepEqual([...mesh.compiler.resources(ADDRESS_TYPE)][0]?.aliases, []);
});

test("peers must use HBONE until a node has said otherwise, and a broken stream changes nothing", () => {
  const mesh = held();
  const tunnel = () => mesh.workload("shop", "web")?.tunnelProtocol;
  mesh.apply(put(namespace("shop", ENABLED), pod("shop", "web"), pod("plain", "web")));
  assert.deepEqual([tunnel(), mesh.workload("plain", "web")?.tunnelProtocol], [TunnelProtocol.HBONE, TunnelProtocol.NONE]);
  mesh.apply(null, [{ node: "n1", snapshot: true, pods: [] }]);
  assert.equal(tunnel(), TunnelProtocol.NONE);
  assert.equal(mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: "shop-web", captured: true }] }]), 1);
  assert.equal(tunnel(), TunnelProtocol.HBONE);
  mesh.apply(put(pod("shop", "web", { "trackbed.dev/mesh": "disabled" })));
  assert.equal(tunnel(), TunnelProtocol.NONE);
  mesh.apply(put(pod("shop", "web")));
  assert.equal(tunnel(), TunnelProtocol.HBONE);
  mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: "shop-web", captured: false }] }]);
  assert.equal(tunnel(), TunnelProtocol.NONE);
});

test("policy values become exact, prefix, suffix, presence, blocks, ports and accounts; clauses are from, to and each condition", () => {
  const mesh = held();
  const empty = {
    principals: [],
    notPrincipals: [],
    namespaces: [],
    notNamespaces: [],
    serviceAccounts: [],
    notServiceAccounts: [],
    ipBlocks: [],
    notIpBlocks: [],
  };
  mesh.apply(
    put(
      policy("shop", "p", {
        action: "DENY",
        selector: { app: "web" },
        rules: [
          {
            from: [
              { ...empty, principals: ["cluster.local/ns/a/sa/b", "cluster.local/*", "*/sa/x", "*"], notNamespaces: ["a.b"] },
              { ...empty, serviceAccounts: ["x", "other/y"], ipBlocks: ["10.1.2.3/8", "fd00::1"] },
            ],
            to: [{ ports: ["80"], notPorts: ["81"] }],
            when: [
              { key: "destination.ip", values: ["1.2.3.4"], notValues: [] },
              { key: "source.namespace", values: [], notValues: ["z"] },
            ],
          },
        ],
      }),
    ),
  );
  const compiled = mesh.policy("shop/p");
  const matches = compiled?.rules[0]?.clauses.map(({ matches }) => matches) ?? [];
  assert.deepEqual(
    matches.map((clause) => clause.length),
    [2, 1, 1, 1],
  );
  assert.deepEqual(
    matches[0]?.[0]?.principals.map(({ matchType }) => [matchType.case, typeof matchType.value === "string" ? matchType.value : ""]),
    [
      ["exact", "cluster.local/ns/a/sa/b"],
      ["prefix", "cluster.local/"],
      ["suffix", "/sa/x"],
      ["presence", ""],
    ],
  );
  assert.deepEqual(
    matches[0]?.[1]?.serviceAccounts.map(({ namespace, serviceAccount }) => `${namespace}/${serviceAccount}`),
    ["shop/x", "other/y"],
  );
  assert.deepEqual(
    matches[0]?.[1]?.sourceIps.map(({ address, length }) => [[...address.slice(0, 4)], length]),
    [
      [[10, 0, 0, 0], 8],
      [[0xfd, 0, 0, 0], 128],
    ],
  );
  assert.deepEqual([matches[1]?.[0]?.destinationPorts, matches[1]?.[0]?.notDestinationPorts], [[80], [81]]);
  assert.equal(compiled?.scope, 2);
  assert.deepEqual(mesh.compiler.faults(), []);
});

test("scope follows selector and namespace, and only pods that a selector picks name its policy", () => {
  const mesh = held();
  mesh.apply(
    put(
      policy("root", "all"),
      policy("shop", "ns"),
      policy("shop", "sel", { selector: { app: "web" } }),
      policy("root", "rootsel", { selector: { app: "web" } }),
      pod("shop", "web", { app: "web" }),
      pod("shop", "db", { app: "db" }),
      pod("other", "web", { app: "web" }),
    ),
  );
  assert.deepEqual(
    ["root/all", "shop/ns", "shop/sel", "root/rootsel"].map((name) => mesh.policy(name)?.scope),
    [0, 1, 2, 2],
  );
  assert.deepEqual(
    [
      ["shop", "web"],
      ["shop", "db"],
      ["other", "web"],
    ].map(([ns = "", name = ""]) => mesh.workload(ns, name)?.authorizationPolicies),
    [["root/rootsel", "shop/sel"], [], ["root/rootsel"]],
  );
});

test("a value that cannot be expressed makes the policy deny all that it selects, and says which value", () => {
  const source = (field: string, value: string) => ({
    principals: [],
    notPrincipals: [],
    namespaces: [],
    notNamespaces: [],
    serviceAccounts: [],
    notServiceAccounts: [],
    ipBlocks: [],
    notIpBlocks: [],
    [field]: [value],
  });
  const bad: [AuthorizationPolicy["rules"][number], string][] = [
    ...(["principals", "notPrincipals"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "spiffe://a/ns/b/sa/c")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["namespaces", "notNamespaces", "principals"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "a*b")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["serviceAccounts", "notServiceAccounts"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "a/*")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["ipBlocks", "notIpBlocks"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "10.0.0.0/33")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    [{ from: [], to: [{ ports: ["65536"], notPorts: [] }], when: [] }, "spec.rules[0].to[0].operation.ports[0]"],
    [{ from: [], to: [{ ports: [], notPorts: ["http"] }], when: [] }, "spec.rules[0].to[0].operation.notPorts[0]"],
    [{ from: [], to: [{ ports: [], notPorts: [] }], when: [] }, "spec.rules[0].to[0].operation"],
    [{ from: [], to: [], when: [{ key: "destination.port", values: ["0"], notValues: [] }] }, "spec.rules[0].when[0].values[0]"],
    [{ from: [], to: [], when: [{ key: "source.ip", values: [], notValues: [] }] }, "spec.rules[0].when[0]"],
    [{ from: [], to: [], when: [{ key: "request.host", values: ["a"], notValues: [] }] }, "spec.rules[0].when[0].key"],
  ];
  for (const [rule, field] of bad) {
    const mesh = held();
    mesh.apply(put(policy("shop", "p", { rules: [{ from: [], to: [], when: [] }, rule].reverse() })));
    const compiled = mesh.policy("shop/p");
    assert.deepEqual([compiled?.action, compiled?.rules.map(({ clauses }) => clauses.length)], [1, [0]], field);
    assert.deepEqual(
      mesh.compiler.faults().map(({ code, key, field }) => [code, key, field]),
      [["E_POLICY_INVALID", "AuthorizationPolicy/shop/p", field]],
    );
    mesh.apply(remove(policy("shop", "p")));
    assert.deepEqual([mesh.policy("shop/p"), mesh.compiler.faults()], [undefined, []]);
  }
});

test("an unenforceable DENY denies its whole target; an ALLOW loses exactly the rules that L4 cannot enforce", () => {
  const mesh = held();
  const rule = (port: string) => ({ from: [], to: [{ ports: [port], notPorts: [] }], when: [] });
  const rules = Array.from({ length: 11 }, (_, i) => rule(String(i + 1)));
  mesh.apply(
    put(
      policy("shop", "deny", { action: "DENY", rules, unenforceable: ["spec.rules[1].to[0].operation.paths"] }),
      policy("shop", "allow", { rules, unenforceable: ["spec.rules[1].to[0].operation.paths"] }),
    ),
  );
  assert.deepEqual(
    mesh.policy("shop/deny")?.rules.map(({ clauses }) => clauses.length),
    [0],
  );
  assert.deepEqual(
    mesh.policy("shop/allow")?.rules.map(({ clauses }) => clauses[0]?.matches[0]?.destinationPorts[0]),
    [1, 3, 4, 5, 6, 7, 8, 9, 10, 11],
  );
  assert.equal(mesh.compiler.faults().length, 2);
});

test("PeerAuthentication: workload beats namespace beats mesh, the oldest wins, UNSET inherits, ports differ", () => {
  const mesh = held();
  const web = { app: "web" };
  const names = () => mesh.workload("shop", "web")?.authorizationPolicies;
  const STATIC = "root/istio_converted_static_strict";
  mesh.apply(put(pod("shop", "web", web)));
  assert.deepEqual(mesh.policy(STATIC)?.rules[0]?.clauses[0]?.matches[0]?.notPrincipals[0]?.matchType.case, "presence");
  mesh.apply(put(peer("root", "mesh", "STRICT")));
  assert.deepEqual(names(), [STATIC]);
  mesh.apply(
    put(
      peer("shop", "young", "STRICT", { metadata: meta("shop", "young", {}, "2026-02-01T00:00:00Z") }),
      peer("shop", "old", "PERMISSIVE", { metadata: meta("shop", "old", {}, "2026-01-01T00:00:00Z") }),
    ),
  );
  assert.deepEqual(names(), []);
  mesh.apply(put(peer("shop", "web", "UNSET", { selector: web, portModes: { 80: "STRICT", 81: "UNSET" } })));
  assert.deepEqual(names(), ["shop/converted_peer_authentication_web"]);
  assert.deepEqual(mesh.policy("shop/converted_peer_authentication_web")?.rules[0]?.clauses[0]?.matches[0]?.destinationPorts, [80]);
  mesh.apply(remove(peer("shop", "old", "PERMISSIVE")));
  assert.deepEqual([names(), mesh.policy("shop/converted_peer_authentication_web")], [[STATIC], undefined]);
  mesh.apply(put(peer("shop", "web", "STRICT", { selector: web, portModes: { 90: "DISABLE" } })));
  assert.deepEqual(mesh.policy("shop/converted_peer_authentication_web")?.rules[0]?.clauses[0]?.matches[0]?.notDestinationPorts, [90]);
  mesh.apply(put(peer("shop", "web", "DISABLE", { selector: web })));
  assert.deepEqual(names(), []);
  mesh.apply(put(peer("root", "sel", "PERMISSIVE", { selector: web }), pod("root", "web", web)));
  assert.deepEqual(mesh.workload("root", "web")?.authorizationPolicies, [STATIC]);
  assert.deepEqual(
    mesh.compiler.faults().map(({ key, field }) => [key, field]),
    [["PeerAuthentication/root/sel", "spec.selector"]],
  );
});

test("policies arrive before the workloads that name them and go after them", () => {
  const compiler = createCompiler(settings);
  const strict = policy("shop", "p", { selector: { app: "web" } });
  const types = (change: Parameters<Compiler["apply"]>[0]) =>
    compiler.apply(change).deltas.map(({ typeUrl, upsert, remove }) => [typeUrl.split(".").at(-1), upsert.length, remove.length]);
  assert.deepEqual(types(put(strict, pod("shop", "web", { app: "web" }))), [
    ["Authorization", 2, 0],
    ["Address", 1, 0],
  ]);
  assert.deepEqual(types(remove(strict)), [
    ["Address", 1, 0],
    ["Authorization", 0, 1],
  ]);
});

test("one pod's change costs one resource among 2000 pods, 200 services and 200 policies", () => {
  const mesh = held();
  const all: MeshObject[] = [];
  for (let i = 0; i < 200; i++)
    all.push(service("shop", `s${i}`, { app: `a${i}` }), policy("shop", `p${i}`, { selector: { app: `a${i}` } }));
  for (let i = 0; i < 2000; i++) all.push(pod("shop", `pod${i}`, { app: `a${i % 200}` }));
  assert.equal(mesh.apply({ reset: true, put: all, remove: [] }), all.length);
  assert.equal(mesh.apply(put(pod("shop", "pod7", { app: "a7" }, { ready: false }))), 1);
  assert.equal(mesh.apply(put(service("shop", "s7", { app: "a7" }, { ports: [] }))), 11);
  assert.equal(mesh.apply(put(policy("shop", "p7", { selector: { app: "a8" } }))), 21);
  assert.equal(mesh.apply(put(policy("shop", "wide"))), 1);
});

test("any sequence of changes gives what a compiler that starts with the result gives", () => {
  const labels = fc.dictionary(fc.constantFrom("app", "tier"), fc.constantFrom("a", "b"), { noNullPrototype: true });
  const place = fc.constantFrom("root", "shop", "other");
  const name = fc.constantFrom("x", "y");
  const mode = fc.constantFrom("UNSET" as const, "STRICT" as const, "PERMISSIVE" as const, "DISABLE" as const);
  const mesh = fc.constantFrom<Labels>({}, ENABLED, { "trackbed.dev/mesh": "disabled" });
  const object: fc.Arbitrary<MeshObject> = fc.oneof(
    fc
      .tuple(place, name, labels, mesh, fc.boolean(), fc.constantFrom("n1", "n2"), fc.constantFrom("Running" as const, "Failed" as const))
      .map(([ns, n, l, m, ready, nodeName, phase]) => pod(ns, n, { ...l, ...m }, { ready, nodeName, phase })),
    fc
      .tuple(place, name, labels, fc.constantFrom("ClusterIP" as const, "ExternalName" as const))
      .map(([ns, n, l, type]) => service(ns, n, l, { type })),
    fc
      .tuple(place, name, labels, fc.constantFrom([], ["spec.rules[0].to"]))
      .map(([ns, n, selector, unenforceable]) => policy(ns, n, { selector, unenforceable, action: "DENY" })),
    fc
      .tuple(place, name, labels, mode, mode, fc.constantFrom("", "2026-01-01T00:00:00Z"))
      .map(([ns, n, selector, m, p, t]) => peer(ns, n, m, { selector, portModes: { 80: p }, metadata: meta(ns, n, {}, t) })),
    fc.tuple(place, mesh).map(([n, l]) => namespace(n, l)),
    fc.tuple(fc.constantFrom("n1", "n2"), fc.constantFrom("z1", "z2")).map(
      ([n, z]): MeshObject => ({
        kind: "Node",
        metadata: meta("", n, { "topology.kubernetes.io/zone": z }),
        addresses: [],
        podCIDRs: [],
      }),
    ),
  );
  const report = fc.record({
    node: fc.constantFrom("n1", "n2"),
    snapshot: fc.boolean(),
    pods: fc.array(fc.record({ uid: fc.constantFrom("root-x", "shop-x", "shop-y", "other-x"), captured: fc.boolean() }), { maxLength: 3 }),
  });
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .array(object, { minLength: 1, maxLength: 3 })
        .map((objects) => ({ put: objects, drop: [] as number[], reset: false, nodes: [] as NodeUpdate[] })),
    },
    {
      weight: 2,
      arbitrary: fc.array(fc.nat(50), { maxLength: 3 }).map((drop) => ({ put: [], drop, reset: false, nodes: [] as NodeUpdate[] })),
    },
    { weight: 2, arbitrary: fc.array(report, { minLength: 1, maxLength: 2 }).map((nodes) => ({ put: [], drop: [], reset: false, nodes })) },
    {
      weight: 1,
      arbitrary: fc.array(object, { maxLength: 4 }).map((objects) => ({ put: objects, drop: [], reset: true, nodes: [] as NodeUpdate[] })),
    },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const incremental = held();
      const reports: NodeUpdate[] = [];
      incremental.apply(null);
      for (const { put, drop, reset, nodes } of steps) {
        const present = [...incremental.compiler.objects()];
        const remove = drop.flatMap((i) => present[i] ?? []).map(keyOf);
        incremental.apply({ reset, put: [...new Map(put.map((one) => [keyOf(one), one])).values()], remove }, nodes);
        reports.push(...nodes);
      }
      const scratch = held();
      for (const update of reports) scratch.apply(null, [update]);
      scratch.apply({ reset: true, put: [...incremental.compiler.objects()], remove: [] });
      const sorted = (map: Map<string, Uint8Array>) => [...map].map(([name, body]) => [name, Buffer.from(body).toString("hex")]).sort();
      assert.deepEqual(sorted(incremental.resources), sorted(scratch.resources));
      const faults = (compiler: Compiler) =>
        compiler
          .faults()
          .map((fault) => JSON.stringify(fault))
          .sort();
      assert.deepEqual(faults(incremental.compiler), faults(scratch.compiler));
    }),
    { numRuns: 300 },
  );
});

test("no policy value is dropped: each is in the compiled policy or the policy denies everything and says so", () => {
  const value = fc.oneof(
    fc.constantFrom("*", "a*", "*a", "10.0.0.0/8", "80", "ns/sa", "cluster.local/ns/a/sa/b"),
    fc.string({ minLength: 1, maxLength: 6 }),
  );
  const values = fc.array(value, { maxLength: 3 });
  const source = fc.record({
    principals: values,
    notPrincipals: values,
    namespaces: values,
    notNamespaces: values,
    serviceAccounts: values,
    notServiceAccounts: values,
    ipBlocks: values,
    notIpBlocks: values,
  });
  const rule = fc.record({
    from: fc.array(source, { maxLength: 2 }),
    to: fc.array(fc.record({ ports: values, notPorts: values }), { maxLength: 2 }),
    when: fc.array(
      fc.record({
        key: fc.constantFrom("source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"),
        values,
        notValues: values,
      }),
      { maxLength: 2 },
    ),
  });
  const count = (value: unknown): number =>
    typeof value === "string"
      ? 1
      : Array.isArray(value)
        ? value.reduce((sum: number, one) => sum + count(one), 0)
        : typeof value === "object" && value !== null
          ? Object.values(value).reduce((sum: number, one) => sum + count(one), 0)
          : 0;
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 2 }), fc.constantFrom("ALLOW" as const, "DENY" as const), (rules, action) => {
      const mesh = held();
      mesh.apply(put(policy("shop", "p", { rules, action })));
      const compiled = mesh.policy("shop/p");
      const bad = mesh.compiler.faults().filter(({ field }) => field !== "spec.rules");
      if (bad.length > 0) return assert.deepEqual([compiled?.action, compiled?.rules.map(({ clauses }) => clauses.length)], [1, [0]]);
      const emitted = (compiled?.rules ?? [])
        .flatMap(({ clauses }) => clauses)
        .flatMap(({ matches }) => matches)
        .flatMap((match) => Object.values(match))
        .filter(Array.isArray)
        .reduce((sum, list) => sum + list.length, 0);
      const written = count(rules.map(({ from, to, when }) => [from, to, when.map(({ values, notValues }) => [values, notValues])]));
      assert.equal(emitted, written);
    }),
    { numRuns: 500 },
  );
});

const ANYBODY: AuthorizationPolicy["rules"][number]["from"][number] = {
  principals: [],
  notPrincipals: [],
  namespaces: [],
  notNamespaces: [],
  serviceAccounts: [],
  notServiceAccounts: [],
  ipBlocks: [],
  notIpBlocks: [],
};

test("what would not fit into a message is closed and named, and nothing else is held up", () => {
  const from = [{ ...ANYBODY, namespaces: Array.from({ length: 200_000 }, (_, i) => `namespace-${i}`) }];
  const large = policy("shop", "large", { selector: { app: "web" }, rules: [{ from, to: [], when: [] }] });
  const many = Array.from({ length: 9_000 }, (_, i) => policy("shop", `${i}`.padStart(250, "p"), { selector: { app: "cart" } }));
  const ports = Array.from(
    { length: 300_000 },
    () => ({ name: "", port: 60000, targetPort: 60000, protocol: "TCP", appProtocol: "" }) as const,
  );
  const mesh = held();
  mesh.apply(
    put(large, ...many, service("shop", "wide", {}, { ports }), pod("shop", "cart", { app: "cart" }), pod("shop", "web", { app: "web" })),
  );
  for (const [name, body] of mesh.resources) assert.ok(body.length <= 2 * 2 ** 20, `${name} has ${body.length} bytes`);
  const closed = mesh.policy("shop/large");
  assert.deepEqual([closed?.action, closed?.rules.length, closed?.rules[0]?.clauses.length], [Action.DENY, 1, 0]);
  assert.deepEqual(mesh.workload("shop", "web")?.authorizationPolicies, ["shop/large"]);
  const cart = mesh.workload("shop", "cart");
  assert.equal(cart?.authorizationPolicies.length, 1);
  assert.equal(mesh.policy(cart?.authorizationPolicies[0] ?? ""), undefined, "a policy that exists might let somebody in");
  assert.deepEqual(mesh.service("shop/wide.shop.svc.cluster.local")?.ports, []);
  assert.deepEqual(
    mesh.compiler
      .faults()
      .map(({ key }) => key)
      .sort(),
    ["AuthorizationPolicy/shop/large", "Pod/shop/cart", "Service/shop/wide"],
  );
  mesh.apply(remove(large, ...many));
  assert.deepEqual([mesh.compiler.faults().length, mesh.workload("shop", "cart")?.authorizationPolicies], [1, []]);
});
