// Claims about what people are told of waypoints, and what is refused to them, on objects as an API server holds them.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { V1Pod } from "@kubernetes/client-node";
import type { KindName } from "#install/kinds.ts";
import type { Cluster } from "./client.ts";
import { applyWaypoint, deleteWaypoint, progress } from "./waypoint.ts";
import { type GatewayObject, listPage, type RouteObject, statusPage, type WaypointFacts, waypointsOf } from "./waypoint-view.ts";

const gateway = (name: string, more: Partial<GatewayObject> = {}): GatewayObject => ({
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "Gateway",
  metadata: { name, namespace: "shop" },
  spec: { gatewayClassName: "trackbed-waypoint" },
  ...more,
});
const programmed = { conditions: [{ type: "Programmed", status: "True" }], addresses: [{ value: "10.96.0.9" }] };
const pod = (name: string, ready: boolean): V1Pod => ({
  metadata: { name, namespace: "shop", labels: { "gateway.networking.k8s.io/gateway-name": "waypoint" } },
  spec: { nodeName: "node1", containers: [] },
  status: { phase: "Running", conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
});
const labelled = (name: string, namespace: string | undefined, labels: Record<string, string>) => ({
  metadata: { name, ...(namespace === undefined ? {} : { namespace }), labels },
});
const NOTHING: WaypointFacts = { gateways: [], namespaces: [], services: [], pods: [], routes: [] };

function fakeCluster(facts: WaypointFacts) {
  const done: string[] = [];
  const held: Partial<Record<KindName, readonly unknown[]>> = {
    Gateway: facts.gateways,
    Namespace: facts.namespaces,
    Service: facts.services,
    Pod: facts.pods,
    HTTPRoute: facts.routes,
  };
  const cluster: Pick<Cluster, "get" | "list" | "apply" | "remove"> = {
    get: async (kind, name) => (held[kind]?.find((one) => (one as GatewayObject).metadata.name === name) ?? null) as never,
    list: async (kind) => (held[kind] ?? []) as never,
    apply: async ({ kind, metadata }) => {
      done.push(`apply ${kind} ${metadata.namespace}/${metadata.name}`);
      return "created";
    },
    remove: async (kind, name, namespace) => {
      done.push(`remove ${kind} ${namespace}/${name}`);
      return true;
    },
  };
  return { cluster: cluster as Cluster, done };
}

test("a waypoint is told with its pods, its address and whoever names it, from whatever namespace", () => {
  const [one] = waypointsOf({
    ...NOTHING,
    gateways: [gateway("waypoint", { status: programmed }), gateway("edge", { spec: { gatewayClassName: "another" } })],
    pods: [pod("waypoint-a", true), pod("waypoint-b", false)],
    namespaces: [
      labelled("shop", undefined, { "trackbed.dev/use-waypoint": "waypoint" }),
      labelled("guest", undefined, { "trackbed.dev/use-waypoint": "waypoint", "trackbed.dev/use-waypoint-namespace": "shop" }),
      labelled("other", undefined, { "trackbed.dev/use-waypoint": "waypoint" }),
      labelled("out", undefined, { "trackbed.dev/use-waypoint": "none", "trackbed.dev/use-waypoint-namespace": "shop" }),
    ],
    services: [labelled("cart", "shop", { "trackbed.dev/use-waypoint": "waypoint" })],
  });
  assert.ok(one);
  assert.deepEqual(one.users, ["namespace shop", "namespace guest", "service shop/cart"]);
  assert.match(listPage([one]), /shop +waypoint +yes +1\/2 +10\.96\.0\.9 +namespace shop, namespace guest, service shop\/cart/);
  assert.deepEqual(progress(one), { done: true, text: "the waypoint is programmed", stuck: [] });
});

test("what stands in its way is told with the reason", () => {
  const status = { conditions: [{ type: "Accepted", status: "False", reason: "InvalidParameters", message: "replicas: 0 is too few" }] };
  const [one] = waypointsOf({ ...NOTHING, gateways: [gateway("waypoint", { status })] });
  assert.ok(one);
  assert.deepEqual(progress(one).stuck, ["Accepted: replicas: 0 is too few (InvalidParameters)"]);
  assert.equal(progress(one).done, false);
  assert.match(statusPage(one), /Accepted +False +InvalidParameters +replicas: 0 is too few[\s\S]*it has no pod/);
  assert.equal(progress(null).done, false);
});

test("routes of its namespace that are not in force stand in its status, those of other controllers do not", () => {
  const route = (name: string, controllerName: string, ok: boolean): RouteObject => ({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name, namespace: "shop" },
    status: {
      parents: [
        {
          controllerName,
          parentRef: { kind: "Service", name: "cart" },
          conditions: [{ type: "ResolvedRefs", status: ok ? "True" : "False", reason: "BackendNotFound", message: "no Service cart-v3" }],
        },
      ],
    },
  });
  const routes = [
    route("split", "trackbed.dev/waypoint", false),
    route("fine", "trackbed.dev/waypoint", true),
    route("edge", "else", false),
  ];
  const [one] = waypointsOf({ ...NOTHING, gateways: [gateway("waypoint", { status: programmed })], routes });
  assert.ok(one);
  assert.deepEqual(
    one.faults.map(({ route, message }) => `${route} ${message}`),
    ["HTTPRoute shop/split for Service cart: no Service cart-v3"],
  );
  assert.match(statusPage(one), /HTTPRoute shop\/split +ResolvedRefs +BackendNotFound/);
});

test("a waypoint that somebody names is not deleted without --force, and one that is not there is said to be absent", async () => {
  const namespaces = [labelled("shop", undefined, { "trackbed.dev/use-waypoint": "waypoint" })];
  const { cluster, done } = fakeCluster({ ...NOTHING, gateways: [gateway("waypoint")], namespaces });
  const asked = { namespace: "shop", name: "waypoint" };
  await assert.rejects(
    deleteWaypoint(cluster, { ...asked, force: false }),
    /still named by namespace shop: take the label .* or say --force/,
  );
  assert.deepEqual(done, []);
  await deleteWaypoint(cluster, { ...asked, force: true });
  assert.deepEqual(done, ["remove Gateway shop/waypoint"]);
  await assert.rejects(deleteWaypoint(cluster, { namespace: "shop", name: "none", force: true }), /has no waypoint none/);
});

test("a Gateway of another class is never taken over", async () => {
  const { cluster, done } = fakeCluster({ ...NOTHING, gateways: [gateway("edge", { spec: { gatewayClassName: "another" } })] });
  await assert.rejects(applyWaypoint(cluster, { namespace: "shop", name: "edge" }), /of class another: give the waypoint another name/);
  assert.deepEqual(done, []);
  await applyWaypoint(cluster, { namespace: "shop", name: "waypoint" });
  assert.deepEqual(done, ["apply Gateway shop/waypoint"]);
});
