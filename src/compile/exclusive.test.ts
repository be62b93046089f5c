// Claims about "only through the waypoint": from when on, for whom, on which ports, and that nobody else is touched.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createCompiler } from "#compile/compiler.ts";
import { annotations, kubernetes } from "#contract/tables.ts";
import { keyOf, type MeshObject, type Pod } from "#mesh/objects.ts";
import { backendOf, gatewayOf, httpRoute, httpRule, parentOf } from "#mesh/route-specimen.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import { ENABLED, held, meta, namespace, pod, policy, put, remove, service, settings } from "./specimen.ts";

const NAME = "shop/.only-through-waypoint.web";
const WEB: DestinationKey = "Service/shop/web";
const USE = { "trackbed.dev/use-waypoint": "gate" };
const GATE = { [kubernetes.gatewayNameLabel]: "gate", [kubernetes.gatewayClassLabel]: kubernetes.waypointClass };
const web = service("shop", "web", { app: "web" }, { metadata: meta("shop", "web", USE) });
const front = service("shop", "gate", { [kubernetes.gatewayNameLabel]: "gate" });
const proxy = (more: Partial<Pod> = {}) => pod("shop", "gate-1", GATE, { serviceAccountName: "gate", ...more });
const gate = gatewayOf("shop", "gate");
const backend = pod("shop", "web-1", { app: "web" });
const stranger = pod("shop", "db-1", { app: "db" });
const MESH = [namespace("shop", ENABLED), web, front, gate, proxy(), backend, stranger];
const target = { group: "", kind: "Service", name: "web", sectionName: "" };
const guard = policy("shop", "guard", { targets: [target] });

type Mesh = ReturnType<typeof held>;
const release = (mesh: Mesh) => mesh.apply(null, [], mesh.compiler.awaiting());
const carried = (mesh: Mesh, name = "web-1") => mesh.workload("shop", name)?.authorizationPolicies;

/** What it denies: whom not, and where. */
function denied(mesh: Mesh) {
  const [rule] = mesh.policy(NAME)?.rules ?? [];
  const [elsewhere, here] = rule?.clauses.map(({ matches }) => matches[0]) ?? [];
  const principals = elsewhere?.notPrincipals.map(({ matchType }) => matchType.value) ?? [];
  return { principals, ports: here?.destinationPorts ?? [] };
}

test("pods refuse what did not pass the waypoint once nodes know of it, on the service's ports, and not before", () => {
  const mesh = held();
  mesh.apply(put(...MESH));
  mesh.apply(put(guard));
  assert.deepEqual([mesh.policy(NAME), carried(mesh), mesh.compiler.awaiting()], [undefined, [], [WEB]]);
  release(mesh);
  assert.deepEqual([carried(mesh), carried(mesh, "db-1"), mesh.compiler.awaiting()], [[NAME], [], []]);
  assert.deepEqual(denied(mesh), { principals: ["cluster.local/ns/shop/sa/gate"], ports: [8080] });
  assert.ok(mesh.compiler.scopeOf("shop/gate")?.policies.has(NAME), "the waypoint knows the policies of its endpoints");
  mesh.apply(remove(guard));
  assert.deepEqual([mesh.policy(NAME), carried(mesh)], [undefined, []]);
});

test("a service without a policy, or with one that is only told, stays open; an annotation keeps it to its waypoint", () => {
  const mesh = held();
  mesh.apply(put(...MESH, policy("shop", "guard", { targets: [target], dryRun: true })));
  assert.deepEqual([mesh.compiler.awaiting(), carried(mesh)], [[], []]);
  const metadata = { ...meta("shop", "web", USE), annotations: { [annotations.requireWaypoint]: "true" } };
  mesh.apply(put({ ...web, metadata }));
  release(mesh);
  assert.deepEqual(carried(mesh), [NAME]);
});

test("while no waypoint is ready, or nodes cannot send there, nobody is refused", () => {
  const mesh = held();
  mesh.apply(put(namespace("shop", ENABLED), web, front, gate, proxy({ ready: false }), backend, guard));
  assert.deepEqual([mesh.compiler.awaiting(), carried(mesh)], [[], []]);
  mesh.apply(put(proxy()));
  release(mesh);
  assert.deepEqual(carried(mesh), [NAME]);
  mesh.apply(remove(gate));
  assert.deepEqual([mesh.policy(NAME), carried(mesh)], [undefined, []], "the way out: no waypoint, no refusal");
  mesh.apply(put(gate));
  assert.deepEqual([mesh.compiler.awaiting(), carried(mesh)], [[WEB], []], "and it is waited for anew");
});

test("a control that begins anew does not open what was closed", () => {
  const mesh = held();
  mesh.apply({ reset: true, put: [...MESH, guard], remove: [] });
  assert.deepEqual([mesh.compiler.awaiting(), carried(mesh)], [[], [NAME]]);
});

test("limits on requests keep a service to its waypoint too, but not those of another namespace's route", () => {
  const mesh = held();
  const route = httpRoute("bank", "r", [httpRule({ backends: [backendOf("shop", "web")] })], { parents: [parentOf("shop", "web")] });
  const limit = (ns: string, kind: string, name: string): MeshObject => ({
    kind: "RequestPolicy",
    metadata: meta(ns, "limit"),
    generation: 1,
    targets: [{ group: kind === "Service" ? "" : "gateway.networking.k8s.io", kind, name, sectionName: "" }],
    unsupported: [],
    rateLimits: [],
    loadShedding: null,
    faultInjection: null,
    limits: null,
    sessionPersistence: null,
  });
  mesh.apply(put(...MESH, route, limit("bank", "HTTPRoute", "r")));
  assert.deepEqual([mesh.compiler.policies.requestSettings.size, mesh.compiler.awaiting()], [1, []]);
  mesh.apply(put(limit("shop", "Service", "web")));
  assert.deepEqual(mesh.compiler.awaiting(), [WEB]);
});

test("both of two waypoints count, whatever their pods run as, and what a port's name means at each pod", () => {
  const mesh = held();
  const next = { ...GATE, [kubernetes.gatewayNameLabel]: "next" };
  const both = { ...USE, "trackbed.dev/use-waypoint-canary": "next" };
  mesh.apply(put(...MESH, guard));
  release(mesh);
  mesh.apply(
    put(
      { ...web, metadata: meta("shop", "web", both) },
      gatewayOf("shop", "next"),
      pod("shop", "next-1", next, { serviceAccountName: "own" }),
    ),
  );
  assert.deepEqual(denied(mesh).principals, [
    "cluster.local/ns/shop/sa/gate",
    "cluster.local/ns/shop/sa/next",
    "cluster.local/ns/shop/sa/own",
  ]);
  mesh.apply(put(pod("shop", "web-2", { app: "web" }, { ports: [{ name: "http", port: 9090 }] })));
  assert.deepEqual([denied(mesh).ports, carried(mesh, "web-2")], [[8080, 9090], [NAME]]);
});

test("a route of another waypoint to the service opens nothing to that waypoint", () => {
  const mesh = held();
  const other = { ...GATE, [kubernetes.gatewayNameLabel]: "other" };
  const till = service("shop", "till", { app: "till" }, { metadata: meta("shop", "till", { "trackbed.dev/use-waypoint": "other" }) });
  const route = httpRoute("shop", "around", [httpRule({ backends: [backendOf("shop", "web", { port: 80 })] })], {
    parents: [parentOf("shop", "till")],
  });
  const theirs = [till, gatewayOf("shop", "other"), pod("shop", "other-1", other, { serviceAccountName: "other" }), route];
  mesh.apply(put(...MESH, guard, ...theirs));
  release(mesh);
  assert.deepEqual(denied(mesh).principals, ["cluster.local/ns/shop/sa/gate"]);
  assert.ok(mesh.compiler.scopeOf("shop/other")?.addresses.has("shop/web.shop.svc.cluster.local"), "it does send there");
});

test("whatever came and went: the same as from scratch, once nodes know", () => {
  const pool: MeshObject[] = [
    ...MESH.slice(1),
    guard,
    service("shop", "web", { app: "web" }),
    proxy({ ready: false }),
    proxy({ serviceAccountName: "other" }),
    pod("shop", "web-1", { app: "web" }, { ports: [{ name: "http", port: 9090 }] }),
    pod("shop", "web-1", { app: "other" }),
    { ...web, selector: { app: "db" } },
  ];
  const everything = (mesh: Mesh) => [...mesh.resources].map(([name, body]) => `${name} ${Buffer.from(body).toString("hex")}`).sort();
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(pool.length - 1), fc.boolean(), fc.boolean()), { maxLength: 25 }), (steps) => {
      const mesh = held();
      // Always: a pod that was seen outside of the mesh is remembered.
      const [shop = web] = MESH;
      mesh.apply(put(shop));
      const there = new Map<string, MeshObject>([[keyOf(shop), shop]]);
      for (const [index, comes, told] of steps) {
        const object = pool[index] ?? web;
        if (comes) there.set(keyOf(object), object);
        else if (!there.delete(keyOf(object))) continue;
        mesh.apply(comes ? put(object) : remove(object));
        if (told) release(mesh);
      }
      release(mesh);
      const fresh = held(createCompiler(settings));
      fresh.apply({ reset: true, put: [...there.values()], remove: [] });
      assert.deepEqual(everything(mesh), everything(fresh));
    }),
    { numRuns: 300 },
  );
});
