// Claims about policies at waypoints: what applies where, who wins, what cannot be compiled denies, and the same result as from scratch.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { createCompiler } from "#compile/compiler.ts";
import { AccessSchema, Action } from "#contract/gen/authorization_pb.ts";
import { RoutesSchema } from "#contract/gen/route_pb.ts";
import { Algorithm, BackendSettingsSchema, RequestSettingsSchema } from "#contract/gen/traffic_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import { keyOf, type MeshObject } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/route-specimen.ts";
import { projectDocument } from "#source/project/project.ts";
import { ENABLED, held, meta, namespace, pod, put, remove, service, settings } from "./specimen.ts";

const OF_WEB = "shop/web.shop.svc.cluster.local";
const USE = { "trackbed.dev/use-waypoint": "gate" };
const GATE = { [kubernetes.gatewayNameLabel]: "gate", [kubernetes.gatewayClassLabel]: kubernetes.waypointClass };

const web = service("shop", "web", { app: "web" }, { metadata: meta("shop", "web", USE) });
const api = service("shop", "api", { app: "api" }, { metadata: meta("shop", "api", USE) });
const front = service("shop", "gate", { [kubernetes.gatewayNameLabel]: "gate" });
const proxy = pod("shop", "gate-1", GATE);
const gate = gatewayOf("shop", "gate");
const MESH = [namespace("shop", ENABLED), web, api, front, gate, proxy];

function read(document: object): MeshObject {
  const { object, standIn, problems } = projectDocument(document);
  const found = object ?? standIn;
  assert.ok(found !== null, JSON.stringify(problems));
  return found;
}

let made = 0;
const written = (kind: string, name: string, spec: object, ns = "shop", apiVersion = "security.istio.io/v1"): MeshObject =>
  read({
    apiVersion,
    kind,
    metadata: { name, namespace: ns, creationTimestamp: `2026-01-01T00:00:${String(made++ % 60).padStart(2, "0")}Z` },
    spec,
  });
const target = (kind: string, name: string, group = kind === "Service" ? "" : "gateway.networking.k8s.io") => ({ group, kind, name });
const WEB = { targetRefs: [target("Service", "web")] };
const allow = (name: string, more: object, ns = "shop") => written("AuthorizationPolicy", name, { ...WEB, ...more }, ns);
const ours = (kind: string, name: string, spec: object) => written(kind, name, spec, "shop", "trackbed.dev/v1alpha1");
const TOKENS = { ...WEB, jwtRules: [{ issuer: "https://id.example", jwks: '{"keys":[]}' }] };

type Mesh = ReturnType<typeof held>;
const decode = <T>(
  resources: ReadonlyMap<string, { readonly body: Uint8Array }>,
  name: string,
  from: (body: Uint8Array) => T,
): T | null => {
  const found = resources.get(name);
  return found === undefined ? null : from(found.body);
};
const access = ({ compiler }: Mesh, name = OF_WEB) => decode(compiler.policies.access, name, (body) => fromBinary(AccessSchema, body));
const requests = ({ compiler }: Mesh, name = OF_WEB) =>
  decode(compiler.policies.requestSettings, name, (body) => fromBinary(RequestSettingsSchema, body));
const backend = ({ compiler }: Mesh, name = OF_WEB) =>
  decode(compiler.policies.backendSettings, name, (body) => fromBinary(BackendSettingsSchema, body));
const guarded = ({ compiler }: Mesh, name = OF_WEB) => decode(compiler.routes(), name, (body) => fromBinary(RoutesSchema, body))?.guarded;
const names = (mesh: Mesh, name = OF_WEB) => access(mesh, name)?.policies.map((one) => one.name) ?? null;
const reasons = ({ compiler }: Mesh): string[] => compiler.faults().map(({ code, key, reason }) => `${code} ${key}: ${reason}`);

test("a policy is told for what it targets alone, and the routes of that say so", () => {
  const mesh = held();
  mesh.apply(put(...MESH, allow("p", { rules: [{ to: [{ operation: { methods: ["GET"], paths: ["/a*", "/b/{*}"] } }] }] })));
  assert.deepEqual([names(mesh), guarded(mesh)], [["shop/p"], true]);
  assert.deepEqual([names(mesh, "shop/api.shop.svc.cluster.local"), guarded(mesh, "shop/api.shop.svc.cluster.local")], [null, false]);
  const [rule] = access(mesh)?.policies[0]?.rules ?? [];
  assert.deepEqual(
    rule?.clauses[0]?.matches[0]?.paths?.any.map(({ kind }) => [kind.case, kind.value]),
    [
      ["prefix", "/a"],
      ["template", "/b/{*}"],
    ],
  );
  mesh.apply(remove(allow("p", {})));
  assert.deepEqual([names(mesh), guarded(mesh)], [null, false]);
});

test("policies of the service, of its waypoint and of every waypoint add up; a class is the root namespace's alone", () => {
  const mesh = held();
  const gateway = { targetRefs: [target("Gateway", "gate")] };
  const everywhere = { targetRefs: [target("GatewayClass", kubernetes.waypointClass)] };
  mesh.apply(put(...MESH, allow("mine", {}), allow("gate", gateway), allow("all", everywhere, "root"), allow("elsewhere", everywhere)));
  assert.deepEqual(names(mesh)?.sort(), ["root/all", "shop/gate", "shop/mine"]);
  assert.deepEqual(names(mesh, "shop/api.shop.svc.cluster.local")?.sort(), ["root/all", "shop/gate"]);
  assert.match(reasons(mesh).join(), /E_POLICY_NO_WAYPOINT AuthorizationPolicy\/shop\/elsewhere: .*stands in namespace root/);
  mesh.apply(remove(allow("all", everywhere, "root")));
  assert.deepEqual(names(mesh, "shop/api.shop.svc.cluster.local"), ["shop/gate"]);
});

test("a policy that no waypoint enforces says so, and is in force from the moment when one is ready", () => {
  const mesh = held();
  const bare = service("shop", "web", { app: "web" });
  mesh.apply(put(namespace("shop", ENABLED), bare, front, gate, allow("p", {}), written("RequestAuthentication", "j", { jwtRules: [] })));
  assert.deepEqual([names(mesh), reasons(mesh).length], [null, 2]);
  assert.match(reasons(mesh)[0] ?? "", /Service shop\/web has no waypoint/);
  mesh.apply(put(web));
  assert.match(reasons(mesh)[0] ?? "", /will be in force as soon as waypoint shop\/gate is ready/);
  assert.deepEqual(names(mesh), ["shop/p"], "whoever waits for it must know it first");
  mesh.apply(put(proxy));
  assert.match(reasons(mesh).join(), /^E_POLICY_NO_WAYPOINT RequestAuthentication\/shop\/j: /);
  mesh.apply(remove(web));
  assert.match(reasons(mesh).join(), /there is no Service shop\/web/);
});

test("what cannot be compiled denies all that it targets, by its name", () => {
  const cases: [object, RegExp][] = [
    [{ action: "DENY", rules: [{ to: [{ operation: { paths: ["/a*b"] } }] }] }, /paths\[0\].*only at the beginning/],
    [{ action: "DENY", rules: [{ to: [{ operation: { paths: ["/{**}/{*}"] } }] }] }, /\{\*\*\} must be the last/],
    [{ rules: [{ from: [{ source: { remoteIpBlocks: ["10.0.0.0/33"] } }] }] }, /remoteIpBlocks\[0\]/],
    [{ rules: [{ to: [{ operation: { ports: ["70000"] } }] }] }, /ports\[0\]/],
    [{ rules: [{ when: [{ key: "request.body", values: ["x"] }] }] }, /"request.body" is not known/],
    [{ rules: [{ when: [{ key: "request.headers[]", values: ["x"] }] }] }, /is not known/],
    [{ action: "DENY", rules: [{ from: [{ source: { trustDomains: ["x"] } }] }] }, /trustDomains: cannot be enforced/],
    [{ action: "CUSTOM", provider: { name: "opa" } }, /nobody is named "opa"/],
    [{ rulez: [] }, /spec.rulez: cannot be enforced/],
  ];
  for (const [spec, reason] of cases) {
    const mesh = held();
    mesh.apply(put(...MESH, allow("p", spec)));
    const [policy] = access(mesh)?.policies ?? [];
    assert.deepEqual([policy?.name, policy?.rules.length], ["shop/p", 0], JSON.stringify(spec));
    assert.match(policy?.invalid ?? "", reason);
  }
  const mesh = held();
  mesh.apply(put(...MESH, allow("p", { rules: [{ from: [{ source: { trustDomains: ["x"] } }] }] })));
  assert.deepEqual(
    access(mesh)?.policies.map(({ action, rules, invalid }) => [action, rules.length, invalid]),
    [[Action.ALLOW, 0, ""]],
    "an ALLOW loses the rule, and so allows nobody",
  );
  assert.match(reasons(mesh).join(), /the rule is not in force, so it allows nobody/);
});

test("every condition that the API knows is compiled, header names without case and claims by their path", () => {
  const mesh = held();
  const keys: [string, string][] = [
    ["request.headers[X-User]", "headers"],
    ["request.auth.claims[realm][role]", "claims"],
    ["request.auth.principal", "requestPrincipals"],
    ["request.auth.audiences", "audiences"],
    ["request.auth.presenter", "presenters"],
    ["source.namespace", "namespaces"],
    ["source.principal", "principals"],
    ["source.serviceAccount", "serviceAccounts"],
    ["connection.sni", "serverNames"],
  ];
  mesh.apply(put(...MESH, allow("p", { rules: [{ when: keys.map(([key]) => ({ key, values: ["a"], notValues: ["b"] })) }] })));
  const clauses = access(mesh)?.policies[0]?.rules[0]?.clauses ?? [];
  assert.deepEqual(
    clauses.map(({ matches }) =>
      Object.entries(matches[0] ?? {})
        .filter(([name, value]) => !name.startsWith("$") && !(Array.isArray(value) && value.length === 0))
        .map(([name]) => name),
    ),
    keys.map(([, field]) => [field]),
  );
  assert.equal(clauses[0]?.matches[0]?.headers[0]?.name, "x-user");
  assert.deepEqual(clauses[1]?.matches[0]?.claims[0]?.path, ["realm", "role"]);
});

test("AUDIT and dry runs are told and not enforced", () => {
  const mesh = held();
  mesh.apply(put(...MESH, allow("p", { action: "AUDIT", rules: [{}] })));
  assert.deepEqual(
    access(mesh)?.policies.map(({ action, dryRun }) => [action, dryRun]),
    [[Action.DENY, true]],
  );
});

test("tokens are looked for where the rule says, or where everybody has them; without keys the reason goes along", () => {
  const mesh = held();
  const url = "https://id.example/keys";
  const authentication = written("RequestAuthentication", "j", {
    ...WEB,
    jwtRules: [
      { issuer: "a", jwks: '{"keys":[]}' },
      {
        issuer: "b",
        jwksUri: url,
        fromHeaders: [{ name: "X-Token", prefix: "T " }],
        outputClaimToHeaders: [{ header: "X-Role", claim: "realm.role" }],
      },
    ],
  });
  assert.ok(authentication.kind === "RequestAuthentication");
  mesh.apply(put(...MESH, authentication));
  const tokens = () => access(mesh)?.tokens ?? [];
  assert.deepEqual(
    tokens().map(({ policy, issuer, headers, parameters, jwks, missing }) => [policy, issuer, headers[0]?.name, parameters, jwks, missing]),
    [
      ["shop/j", "a", "authorization", ["access_token"], '{"keys":[]}', ""],
      ["shop/j", "b", "x-token", [], "", "its keys were not fetched yet"],
    ],
  );
  assert.deepEqual([tokens()[1]?.claimHeaders[0]?.header, tokens()[1]?.claimHeaders[0]?.claim], ["x-role", ["realm", "role"]]);
  assert.match(reasons(mesh).join(), /issuer b: its keys were not fetched yet; its tokens are refused/);
  mesh.apply(put({ ...authentication, keys: { [url]: { jwks: '{"keys":[1]}', missing: "" } } }));
  assert.deepEqual([tokens()[1]?.jwks, reasons(mesh)], ['{"keys":[1]}', []]);
});

test("a RequestAuthentication that cannot be read denies what it targets", () => {
  const mesh = held();
  mesh.apply(put(...MESH, written("RequestAuthentication", "j", { ...TOKENS, tomorrow: 1 })));
  assert.deepEqual([names(mesh), access(mesh)?.policies[0]?.invalid.includes("spec.tomorrow")], [["shop/j"], true]);
});

test("who is asked is found by name in the mesh's ConfigMap, and comes, goes and moves with it and with its Service", () => {
  const mesh = held();
  const config = (port: number) =>
    read({
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: kubernetes.meshConfigMap, namespace: "root" },
      data: {
        mesh: `extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.infra.svc.cluster.local, port: ${port}, timeout: 1.5s, failOpen: true, statusOnError: "503", includeRequestBodyInCheck: {maxRequestBytes: 8192}}}]`,
      },
    });
  const opa = service(
    "infra",
    "opa",
    { app: "opa" },
    { ports: [{ name: "grpc", port: 9191, targetPort: 9191, protocol: "TCP", appProtocol: "" }] },
  );
  mesh.apply(put(...MESH, allow("p", { action: "CUSTOM", provider: { name: "opa" }, rules: [{}] })));
  const state = () => [access(mesh)?.policies[0]?.invalid, access(mesh)?.providers.map(({ service, port }) => `${service}:${port}`)];
  assert.match(String(state()[0]), /nobody is named/);
  mesh.apply(put(config(9191)));
  assert.match(String(state()[0]), /there is no Service infra\/opa/);
  mesh.apply(put(opa));
  assert.deepEqual(state(), ["", ["infra/opa.infra.svc.cluster.local:9191"]]);
  const [provider] = access(mesh)?.providers ?? [];
  assert.deepEqual(
    [provider?.timeoutMilliseconds, provider?.failOpen, provider?.statusOnError, provider?.body?.maximumBytes, provider?.protocol.case],
    [1500, true, 503, 8192, "grpc"],
  );
  assert.ok(mesh.compiler.scopeOf("shop/gate")?.addresses.has("infra/opa.infra.svc.cluster.local"), "the waypoint knows whom it asks");
  mesh.apply(put(config(1)));
  assert.match(String(state()[0]), /has no TCP port 1/);
  mesh.apply(put(config(9191)));
  mesh.apply(remove(opa));
  assert.match(String(state()[0]), /there is no Service infra\/opa/);
});

const limit = (name: string, targets: readonly object[], requests = 5) =>
  ours("RequestPolicy", name, { targetRefs: targets, rateLimit: { local: { rules: [{ limit: { requests, unit: "Second" } }] } } });

const route = read({
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "HTTPRoute",
  metadata: { name: "r", namespace: "shop" },
  spec: {
    parentRefs: [{ group: "", kind: "Service", name: "web" }],
    rules: [{ backendRefs: [{ name: "web", port: 80 }] }, { name: "slow", backendRefs: [{ name: "web", port: 80 }] }],
  },
});

test("of RequestPolicies the most specific comes first: a rule, the route, a port, the service, its waypoint", () => {
  const mesh = held();
  mesh.apply(
    put(
      ...MESH,
      route,
      limit("gate", [target("Gateway", "gate")]),
      limit("service", [target("Service", "web")]),
      limit("port", [{ ...target("Service", "web"), sectionName: "http" }]),
      limit("route", [target("HTTPRoute", "r")]),
      limit("rule", [{ ...target("HTTPRoute", "r"), sectionName: "slow" }]),
    ),
  );
  assert.deepEqual(
    requests(mesh)?.scopes.map(({ port, route, rateLimits }) => [rateLimits[0]?.name, port, route?.name, route?.rule]),
    [
      ["shop/rule/0", 0, "r", 1],
      ["shop/route/0", 0, "r", undefined],
      ["shop/port/0", 80, undefined, undefined],
      ["shop/service/0", 0, undefined, undefined],
      ["shop/gate/0", 0, undefined, undefined],
    ],
  );
  assert.deepEqual(
    requests(mesh, "shop/api.shop.svc.cluster.local")?.scopes.map(({ rateLimits }) => rateLimits[0]?.name),
    ["shop/gate/0"],
  );
});

const statusOf = ({ compiler }: Mesh, object: MeshObject) =>
  compiler.policies
    .statuses()
    .find(({ key }) => key === keyOf(object))
    ?.ancestors.map(({ ancestorRef, conditions }) => [
      ancestorRef["name"],
      conditions[0]?.status,
      conditions[0]?.reason,
      conditions[0]?.message,
    ]);

test("of several on one target the oldest counts, whole, and the others are told who beat them", () => {
  const mesh = held();
  const [first, second] = [limit("b", [target("Service", "web")], 1), limit("a", [target("Service", "web"), target("Service", "api")], 2)];
  mesh.apply(put(...MESH, second, first));
  assert.deepEqual(
    requests(mesh)?.scopes.map(({ rateLimits }) => rateLimits[0]?.requests),
    [1],
  );
  assert.deepEqual(statusOf(mesh, first), [["web", "True", "Accepted", "in force in waypoint shop/gate"]]);
  assert.deepEqual(statusOf(mesh, second), [
    ["web", "False", "Conflicted", "RequestPolicy shop/b is attached to the same target and older"],
    ["api", "True", "Accepted", "in force in waypoint shop/gate"],
  ]);
  mesh.apply(remove(first));
  assert.deepEqual(
    [requests(mesh)?.scopes.map(({ rateLimits }) => [rateLimits[0]?.name, rateLimits[0]?.requests]), statusOf(mesh, second)?.[0]?.[2]],
    [[["shop/a/Service.web/0", 2]], "Accepted"],
  );
});

test("a status says what is missing: the target, a part of it, a waypoint, a valid document", () => {
  const mesh = held();
  const bare = service("shop", "bare", {});
  const policies = [
    limit("gone", [target("Service", "gone")]),
    limit("section", [{ ...target("Service", "web"), sectionName: "admin" }]),
    limit("idle", [target("Service", "bare")]),
    ours("RequestPolicy", "wrong", { targetRefs: [target("Service", "web")], tomorrow: 1 }),
    ours("BackendPolicy", "late", { targetRefs: [target("Service", "web")] }),
  ];
  mesh.apply(put(...MESH, bare, ...policies));
  assert.deepEqual(
    policies.map((one) => statusOf(mesh, one)?.[0]?.slice(1, 3)),
    [
      ["False", "TargetNotFound"],
      ["False", "TargetNotFound"],
      ["False", "NoWaypoint"],
      ["False", "Invalid"],
      ["True", "Accepted"],
    ],
  );
  assert.equal(requests(mesh), null);
});

test("a BackendPolicy holds for the whole service, or for the port that it names, whoever sends there", () => {
  const mesh = held();
  const whole = ours("BackendPolicy", "whole", { targetRefs: [target("Service", "far")], loadBalancer: { type: "RoundRobin" } });
  const port = ours("BackendPolicy", "port", {
    targetRefs: [{ ...target("Service", "far"), sectionName: "http" }],
    loadBalancer: { type: "ConsistentHash", consistentHash: { keys: [{ type: "Header", header: { name: "X-User" } }] } },
    circuitBreaker: { maxParallelRequests: 7, maxRequestsPerConnection: 3 },
    healthCheck: { passive: { consecutive5XxErrors: 3, successRate: {} } },
  });
  const far = service("shop", "far", {});
  const toFar = read({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "r", namespace: "shop" },
    spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules: [{ backendRefs: [{ name: "far", port: 80 }] }] },
  });
  mesh.apply(put(...MESH, far, whole, port));
  assert.equal(statusOf(mesh, whole)?.[0]?.[2], "NoWaypoint");
  mesh.apply(put(toFar));
  assert.deepEqual(statusOf(mesh, whole)?.[0]?.slice(2), ["Accepted", "in force in the waypoints whose routes send there"]);
  const ports = backend(mesh, "shop/far.shop.svc.cluster.local")?.ports ?? [];
  assert.deepEqual(
    ports.map(({ port, loadBalancer }) => [port, loadBalancer?.algorithm]),
    [
      [0, Algorithm.ROUND_ROBIN],
      [80, Algorithm.MAGLEV],
    ],
  );
  const [, own] = ports;
  assert.deepEqual(own?.loadBalancer?.hash[0]?.kind, { case: "header", value: "x-user" });
  assert.deepEqual(
    [own?.circuitBreaker?.maxParallelRequests, own?.connections?.maxRequestsPerConnection, own?.healthCheck?.consecutive5xxErrors],
    [7, 3, 3],
  );
  assert.deepEqual([own?.healthCheck?.successRate?.stdevFactorThousandths, own?.healthCheck?.maxEjectionPercent], [1900, 10]);
});

test("a namespace that is labelled auto gets a waypoint for what a policy targets", () => {
  const mesh = held();
  const auto = namespace("shop", { ...ENABLED, "trackbed.dev/waypoint": "auto" });
  mesh.apply(put(auto, service("shop", "web", { app: "web" }), service("shop", "api", { app: "api" })));
  assert.deepEqual(mesh.compiler.waypoints(), []);
  mesh.apply(put(allow("p", {})));
  assert.deepEqual(
    mesh.compiler.waypoints().map(({ name, services }) => [name, services]),
    [["waypoint", [OF_WEB]]],
  );
  mesh.apply(remove(allow("p", {})));
  assert.deepEqual(mesh.compiler.waypoints(), []);
});

test("whatever came and went, and in what order: the same as from scratch", () => {
  const bare = service("shop", "web", { app: "web" });
  const pool: MeshObject[] = [
    ...MESH,
    bare,
    route,
    allow("p", {}),
    allow("p", { action: "CUSTOM", provider: { name: "opa" } }),
    allow("gate", { targetRefs: [target("Gateway", "gate")] }),
    allow("all", { targetRefs: [target("GatewayClass", kubernetes.waypointClass)] }, "root"),
    written("RequestAuthentication", "j", TOKENS),
    limit("one", [target("Service", "web")]),
    limit("two", [target("Service", "web"), target("HTTPRoute", "r"), target("Gateway", "gate")]),
    ours("BackendPolicy", "b", { targetRefs: [target("Service", "api")] }),
    { ...proxy, ready: false } as MeshObject,
    gatewayOf("shop", "gate", { className: "another" }),
  ];
  const everything = (mesh: Mesh) => ({
    resources: [mesh.compiler.policies.access, mesh.compiler.policies.backendSettings, mesh.compiler.policies.requestSettings].map((one) =>
      [...one].map(([name, { version }]) => `${name} ${version}`).sort(),
    ),
    routes: [...mesh.compiler.routes()].map(([name, { version }]) => `${name} ${version}`).sort(),
    faults: reasons(mesh).sort(),
    statuses: [...mesh.compiler.policies.statuses()].map((one) => JSON.stringify(one)).sort(),
  });
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(pool.length - 1), fc.boolean()), { maxLength: 25 }), (steps) => {
      const mesh = held();
      const there = new Map<string, MeshObject>();
      for (const [index, comes] of steps) {
        const object = pool[index] ?? web;
        if (comes) there.set(keyOf(object), object);
        else if (!there.delete(keyOf(object))) continue;
        mesh.apply(comes ? put(object) : remove(object));
      }
      const fresh = held(createCompiler(settings));
      fresh.apply({ reset: true, put: [...there.values()], remove: [] });
      assert.deepEqual(everything(mesh), everything(fresh));
    }),
    { numRuns: 300 },
  );
});
