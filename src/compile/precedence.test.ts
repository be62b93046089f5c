// Claims about several policies that meet: on one thing one of them counts, whatever kind of thing that is, and of two things the nearer to the request.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { BackendSettingsSchema, RequestSettingsSchema } from "#contract/gen/traffic_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import { keyOf, type MeshObject } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/route-specimen.ts";
import { projectDocument } from "#source/project/project.ts";
import { ENABLED, held, meta, namespace, pod, put, remove, service } from "./specimen.ts";

const USE = { "trackbed.dev/use-waypoint": "gate" };
const GATE = { [kubernetes.gatewayNameLabel]: "gate", [kubernetes.gatewayClassLabel]: kubernetes.waypointClass };
const WEB = "shop/web.shop.svc.cluster.local";

type Target = { readonly group: string; readonly kind: string; readonly name: string; readonly sectionName?: string };
const target = (kind: string, name: string, sectionName?: string): Target => ({
  group: kind === "Service" ? "" : "gateway.networking.k8s.io",
  kind,
  name,
  ...(sectionName === undefined ? {} : { sectionName }),
});

/** What a RequestPolicy may be attached to, the nearest to the request first. */
const LEVELS: readonly (readonly [string, Target])[] = [
  ["a rule", target("HTTPRoute", "r", "slow")],
  ["the route", target("HTTPRoute", "r")],
  ["a port", target("Service", "web", "http")],
  ["the service", target("Service", "web")],
  ["the waypoint", target("Gateway", "gate")],
];

function read(document: object): MeshObject {
  const { object, standIn, problems } = projectDocument(document);
  const found = object ?? standIn;
  assert.ok(found !== null, JSON.stringify(problems));
  return found;
}

const routeOf = (kind: string, name: string, rules: readonly object[]) =>
  read({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind,
    metadata: { name, namespace: "shop" },
    spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules },
  });
const TO_WEB = { backendRefs: [{ name: "web", port: 80 }] };
const MESH = [
  namespace("shop", ENABLED),
  service("shop", "web", { app: "web" }, { metadata: meta("shop", "web", USE) }),
  service("shop", "gate", { [kubernetes.gatewayNameLabel]: "gate" }),
  gatewayOf("shop", "gate"),
  pod("shop", "gate-1", GATE),
];
const ROUTE = routeOf("HTTPRoute", "r", [TO_WEB, { name: "slow", ...TO_WEB }]);

const policy = (kind: string, name: string, second: number, targetRefs: readonly Target[], spec: object): MeshObject =>
  read({
    apiVersion: "trackbed.dev/v1alpha1",
    kind,
    metadata: { name, namespace: "shop", creationTimestamp: `2026-01-01T00:00:0${second}Z` },
    spec: { targetRefs, ...spec },
  });
const limit = (name: string, second: number, ...targets: readonly Target[]) =>
  policy("RequestPolicy", name, second, targets, { rateLimit: { local: { rules: [{ limit: { requests: 5, unit: "Second" } }] } } });
const breaker = (name: string, second: number, ...targets: readonly Target[]) =>
  policy("BackendPolicy", name, second, targets, { circuitBreaker: { maxParallelRequests: second + 1 } });

type Mesh = ReturnType<typeof held>;
const meshOf = (...objects: readonly MeshObject[]): Mesh => {
  const mesh = held();
  mesh.apply(put(...MESH, ...objects));
  return mesh;
};

/** Names of the policies in force, the first that a request meets first. */
function inForce({ compiler }: Mesh): string[] {
  const found = compiler.policies.requestSettings.get(WEB);
  const scopes = found === undefined ? [] : fromBinary(RequestSettingsSchema, found.body).scopes;
  return scopes.map(({ rateLimits }) => rateLimits[0]?.name.split("/")[1] ?? "");
}

const statusOf = ({ compiler }: Mesh, object: MeshObject) =>
  compiler.policies
    .statuses()
    .find(({ key }) => key === keyOf(object))
    ?.ancestors.map(({ conditions: [first] }) => [first?.status, first?.reason, first?.message]);
const said = (mesh: Mesh, object: MeshObject) => statusOf(mesh, object)?.[0]?.slice(0, 2).join(" ");

for (const [level, where] of LEVELS) {
  test(`of two RequestPolicies on ${level} the older counts, and the other is told who beat it until that is gone`, () => {
    const [older, younger] = [limit("z", 1, where), limit("a", 2, where)];
    for (const order of [
      [older, younger],
      [younger, older],
    ]) {
      const mesh = meshOf(ROUTE, ...order);
      assert.deepEqual(inForce(mesh), ["z"]);
      assert.equal(said(mesh, older), "True Accepted");
      assert.deepEqual(statusOf(mesh, younger), [["False", "Conflicted", "RequestPolicy shop/z is attached to the same target and older"]]);
      mesh.apply(remove(older));
      assert.deepEqual([inForce(mesh), said(mesh, younger)], [["a"], "True Accepted"]);
    }
  });

  test(`of two of the same age on ${level} the first by name counts`, () => {
    const [first, second] = [limit("a", 1, where), limit("b", 1, where)];
    for (const order of [
      [first, second],
      [second, first],
    ]) {
      const mesh = meshOf(ROUTE, ...order);
      assert.deepEqual([inForce(mesh), said(mesh, first)], [["a"], "True Accepted"]);
      const reason = "RequestPolicy shop/a is attached to the same target and as old, and comes first by name";
      assert.deepEqual(statusOf(mesh, second), [["False", "Conflicted", reason]]);
    }
  });

  for (const [farther, beyond] of LEVELS.slice(LEVELS.findIndex(([name]) => name === level) + 1))
    test(`${level} comes before ${farther}, however old their policies are, and both count where they are alone`, () => {
      for (const [ageOfNear, ageOfFar] of [
        [1, 2],
        [2, 1],
        [1, 1],
      ] as const) {
        const [near, far] = [limit("near", ageOfNear, where), limit("far", ageOfFar, beyond)];
        const mesh = meshOf(ROUTE, far, near);
        assert.deepEqual(inForce(mesh), ["near", "far"]);
        assert.deepEqual([said(mesh, near), said(mesh, far)], ["True Accepted", "True Accepted"], "neither loses anything to the other");
      }
    });
}

test("one that cannot be read does not beat a younger one that can", () => {
  const where = target("Service", "web");
  const wrong = policy("RequestPolicy", "wrong", 1, [where], { tomorrow: true });
  const mesh = meshOf(wrong, limit("right", 2, where));
  assert.deepEqual([inForce(mesh), said(mesh, wrong)], [["right"], "False Invalid"]);
});

test("of two routes the policy of each is its own, and the older route's comes first", () => {
  const [of, other] = [limit("r", 2, target("HTTPRoute", "r")), limit("calls", 1, target("GRPCRoute", "calls"))];
  const calls = routeOf("GRPCRoute", "calls", [TO_WEB]);
  const mesh = meshOf(ROUTE, calls, of, other);
  assert.deepEqual([inForce(mesh).toSorted(), said(mesh, of), said(mesh, other)], [["calls", "r"], "True Accepted", "True Accepted"]);
});

test("a RequestPolicy on a class is refused by name, and nothing of it is in force", () => {
  const document = {
    apiVersion: "trackbed.dev/v1alpha1",
    kind: "RequestPolicy",
    metadata: { name: "class", namespace: "shop" },
    spec: { targetRefs: [target("GatewayClass", kubernetes.waypointClass)], limits: { maxBodyBytes: 1 } },
  };
  const { standIn, problems } = projectDocument(document);
  assert.deepEqual(
    problems.map(({ path }) => path.join(".")),
    ["spec.targetRefs.0"],
  );
  assert.ok(standIn !== null);
  assert.deepEqual(inForce(meshOf(standIn, limit("service", 2, target("Service", "web")))), ["service"]);
});

const breakers = ({ compiler }: Mesh) => {
  const found = compiler.policies.backendSettings.get(WEB);
  const ports = found === undefined ? [] : fromBinary(BackendSettingsSchema, found.body).ports;
  return ports.map(({ port, circuitBreaker }) => [port, circuitBreaker?.maxParallelRequests]);
};

test("of BackendPolicies on a port, on a service, and on both: the older of each, the port before the service, and nobody else is heard", () => {
  const [port, whole] = [target("Service", "web", "http"), target("Service", "web")];
  const [late, early, lateWhole, earlyWhole] = [
    breaker("a", 3, port),
    breaker("b", 2, port),
    breaker("c", 1, whole),
    breaker("d", 0, whole),
  ];
  const mesh = meshOf(late, early, lateWhole, earlyWhole);
  assert.deepEqual(breakers(mesh), [
    [0, 1],
    [80, 3],
  ]);
  assert.deepEqual(
    [late, early, lateWhole, earlyWhole].map((one) => said(mesh, one)),
    ["False Conflicted", "True Accepted", "False Conflicted", "True Accepted"],
  );
  assert.deepEqual(statusOf(mesh, lateWhole)?.[0]?.[2], "BackendPolicy shop/d is attached to the same target and older");
  mesh.apply(remove(earlyWhole));
  mesh.apply(remove(early));
  assert.deepEqual(breakers(mesh), [
    [0, 2],
    [80, 4],
  ]);
  const [first, second] = [breaker("x", 5, target("Service", "web", "http")), breaker("y", 5, target("Service", "web", "http"))];
  const same = meshOf(second, first);
  assert.deepEqual([said(same, first), said(same, second)], ["True Accepted", "False Conflicted"]);
});

test("the two kinds do not meet: a RequestPolicy and a BackendPolicy on one service are both in force", () => {
  const where = target("Service", "web");
  const mesh = meshOf(limit("limit", 1, where), breaker("breaker", 2, where));
  assert.deepEqual([inForce(mesh), breakers(mesh)], [["limit"], [[0, 3]]]);
});
