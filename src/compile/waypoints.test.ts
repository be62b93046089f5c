// Claims about waypoints in the compiler: whose traffic passes one and from when on, what it is told, and the same result as from scratch.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { type Compiler, createCompiler } from "#compile/compiler.ts";
import { TunnelProtocol } from "#contract/gen/istio/workload_pb.ts";
import { Protocol, RoutesSchema } from "#contract/gen/route_pb.ts";
import { annotations, kubernetes } from "#contract/tables.ts";
import { keyOf, type Labels, type MeshObject, type Pod } from "#mesh/objects.ts";
import type { Route } from "#mesh/route.ts";
import { backendOf, gatewayOf, httpRoute, httpRule, matchOf, parentOf, streamRoute } from "#mesh/route-specimen.ts";
import { waypointKey } from "#waypoint/waypoint.ts";
import { ENABLED, entry, held, meta, namespace, peer, pod, policy, put, remove, service, settings, slice } from "./specimen.ts";

const OF_WEB = "shop/web.shop.svc.cluster.local";
const USE = { "trackbed.dev/use-waypoint": "gate" };
const FOR_PODS = { "trackbed.dev/waypoint-for": "workload" };
const ENTRY_GROUP = "networking.istio.io";
const ofGate = (className = "trackbed-waypoint"): Labels => ({
  [kubernetes.gatewayNameLabel]: "gate",
  [kubernetes.gatewayClassLabel]: className,
});
const proxy = (more: Partial<Pod> = {}, labels = ofGate()): Pod => pod("shop", "gate-1", labels, more);
const front = service("shop", "gate", { [kubernetes.gatewayNameLabel]: "gate" });
const web = service("shop", "web", { app: "web" }, { metadata: meta("shop", "web", USE) });
const gate = gatewayOf("shop", "gate");
const toWeb = httpRoute("shop", "r", [httpRule({ backends: [backendOf("shop", "web")] })]);

const waypointAt = (mesh: ReturnType<typeof held>, name = OF_WEB) => {
  const waypoint = mesh.service(name)?.waypoint;
  const value = waypoint?.destination.case === "hostname" ? waypoint.destination.value.hostname : null;
  return value === null ? null : [value, waypoint?.hboneMtlsPort];
};
const GATE = ["gate.shop.svc.cluster.local", 15008];

const reasonsOf = (compiler: Compiler, route: Route): string[][] =>
  compiler
    .routeStatuses()
    .filter(({ key }) => key === keyOf(route))
    .flatMap(({ parents }) => parents.map(({ conditions }) => conditions.map(({ type, status, reason }) => `${type} ${status} ${reason}`)));

test("a service is reached through its waypoint from the moment when that is ready, and not before", () => {
  const mesh = held();
  const steps: [MeshObject[], unknown][] = [
    [[web], null],
    [[gate], null],
    [[front], null],
    [[proxy({ ready: false })], null],
    [[proxy()], GATE],
  ];
  for (const [objects, expected] of steps) {
    mesh.apply(put(...objects));
    assert.deepEqual(waypointAt(mesh), expected, keyOf(objects[0] ?? web));
  }
  mesh.apply(remove(front));
  assert.equal(waypointAt(mesh), null);
});

test("a waypoint that was ready once keeps its services while no pod of it is", () => {
  const mesh = held();
  mesh.apply(put(web, gate, front, proxy()));
  mesh.apply(put(gatewayOf("shop", "gate", { programmed: true })));
  mesh.apply(put(proxy({ ready: false })));
  assert.deepEqual(waypointAt(mesh), GATE);
  mesh.apply(remove(proxy()));
  assert.deepEqual(waypointAt(mesh), GATE);
  mesh.apply(remove(gate));
  assert.equal(waypointAt(mesh), null);
});

test("the object's label beats its namespace's, none opts out, and the waypoint's own service has none", () => {
  const plain = service("shop", "plain", {});
  const out = service("shop", "out", {}, { metadata: meta("shop", "out", { "trackbed.dev/use-waypoint": "none" }) });
  const mesh = held();
  mesh.apply(put(namespace("shop", USE), gate, front, proxy(), plain, out));
  assert.deepEqual(waypointAt(mesh, "shop/plain.shop.svc.cluster.local"), GATE);
  assert.equal(waypointAt(mesh, "shop/out.shop.svc.cluster.local"), null);
  assert.equal(waypointAt(mesh, "shop/gate.shop.svc.cluster.local"), null);
  mesh.apply(put(namespace("shop")));
  assert.equal(waypointAt(mesh, "shop/plain.shop.svc.cluster.local"), null);
});

test("a waypoint serves another namespace only where a listener admits it", () => {
  const labels = { "trackbed.dev/use-waypoint": "gate", "trackbed.dev/use-waypoint-namespace": "shop" };
  const far = service("bank", "api", {}, { metadata: meta("bank", "api", labels) });
  const mesh = held();
  mesh.apply(put(namespace("bank", { tier: "gold" }), gate, front, proxy(), far));
  const at = () => waypointAt(mesh, "bank/api.bank.svc.cluster.local");
  assert.equal(at(), null);
  assert.match(mesh.compiler.faults()[0]?.reason ?? "", /no listener of Gateway shop\/gate admits namespace bank/);
  const listener = { name: "mesh", port: 15008, protocol: "HBONE" };
  mesh.apply(put(gatewayOf("shop", "gate", { listeners: [{ ...listener, from: "Selector", selector: { tier: "gold" } }] })));
  assert.deepEqual(at(), GATE);
  mesh.apply(put(namespace("bank")));
  assert.equal(at(), null);
  mesh.apply(put(gatewayOf("shop", "gate", { listeners: [{ ...listener, from: "All", selector: {} }] })));
  assert.deepEqual([at(), mesh.compiler.faults()], [GATE, []]);
});

test("of two waypoints the second gets its share as soon as it is ready, and what it serves is its own to know", () => {
  const labels = { ...USE, "trackbed.dev/use-waypoint-canary": "next" };
  const shared = (share: string) =>
    service(
      "shop",
      "web",
      { app: "web" },
      { metadata: { ...meta("shop", "web", labels), annotations: { [annotations.useWaypointCanaryWeight]: share } } },
    );
  const ofNext = { ...ofGate(), [kubernetes.gatewayNameLabel]: "next" };
  const mesh = held();
  const shares = () =>
    mesh.service(OF_WEB)?.weightedWaypoints.map(({ destination, weight }) => {
      const name = destination?.destination.case === "hostname" ? destination.destination.value.hostname.split(".")[0] : null;
      return [name, weight];
    });
  const faults = () => mesh.compiler.faults().map(({ reason }) => reason);
  mesh.apply(put(shared("20"), gate, front, proxy(), toWeb));
  assert.deepEqual([waypointAt(mesh), shares(), faults().length], [GATE, [], 1]);
  assert.match(faults()[0] ?? "", /canary shop\/next: there is no Gateway shop\/next/);
  mesh.apply(put(gatewayOf("shop", "next"), service("shop", "next", { [kubernetes.gatewayNameLabel]: "next" })));
  assert.deepEqual([shares(), faults(), [...(mesh.compiler.scopeOf("shop/next")?.routes ?? [])]], [[], [], [OF_WEB]]);
  mesh.apply(put(pod("shop", "next-1", ofNext)));
  const both = [
    ["gate", 80],
    ["next", 20],
  ];
  assert.deepEqual([waypointAt(mesh), shares()], [GATE, both]);
  mesh.apply(put(shared("much")));
  assert.deepEqual(
    [shares(), mesh.compiler.waypoints().map(({ name, services }) => [name, services.length])],
    [
      [],
      [
        ["gate", 1],
        ["next", 0],
      ],
    ],
  );
  assert.match(faults()[0] ?? "", /whole number from 0 to 100/);
  mesh.apply(put(shared("100")));
  assert.deepEqual(shares()?.at(-1), ["next", 100]);
});

test("a Gateway that is not there, or is of another class, is told on who names it", () => {
  const mesh = held();
  mesh.apply(put(web, toWeb));
  assert.deepEqual(
    mesh.compiler.faults().map(({ key, code }) => [key, code]),
    [["Service/shop/web", "E_WAYPOINT_ABSENT"]],
  );
  mesh.apply(put(gatewayOf("shop", "gate", { className: "nginx" }), front, proxy()));
  assert.match(mesh.compiler.faults()[0]?.reason ?? "", /is of class nginx, not trackbed-waypoint/);
  assert.deepEqual(
    [waypointAt(mesh), reasonsOf(mesh.compiler, toWeb)],
    [null, [["Accepted False NoWaypoint", "ResolvedRefs True ResolvedRefs"]]],
  );
  mesh.apply(put(gate));
  assert.deepEqual([waypointAt(mesh), mesh.compiler.faults()], [GATE, []]);
});

const ofPod = (mesh: ReturnType<typeof held>, name: string): string | undefined => {
  const { destination } = mesh.workload("shop", name)?.waypoint ?? {};
  return destination?.case === "hostname" ? destination.value.hostname : undefined;
};

test("a pod is reached through a waypoint for pods, which its own label or its namespace's names, and never through one for services", () => {
  const mesh = held();
  const forPods = (kind: string) => gatewayOf("shop", "gate", { metadata: meta("shop", "gate", { "trackbed.dev/waypoint-for": kind }) });
  const out = pod("shop", "out", { "trackbed.dev/use-waypoint": "none" });
  mesh.apply(put(pod("shop", "alone", USE), pod("shop", "other"), out, gate, front, proxy(), web));
  const all = () => [ofPod(mesh, "alone"), ofPod(mesh, "other"), ofPod(mesh, "out"), ofPod(mesh, "gate-1"), waypointAt(mesh)?.[0]];
  const [at] = GATE as [string];
  assert.deepEqual(all(), [undefined, undefined, undefined, undefined, at]);
  assert.match(mesh.compiler.faults().find(({ key }) => key === "Pod/shop/alone")?.reason ?? "", /not for pods: label it/);
  mesh.apply(put(forPods("all")));
  assert.deepEqual([all(), mesh.compiler.faults()], [[at, undefined, undefined, undefined, at], []]);
  mesh.apply(put(namespace("shop", USE)));
  assert.deepEqual(all(), [at, at, undefined, undefined, at]);
  const served = () => [...(mesh.compiler.scopeOf("shop/gate")?.addresses ?? [])].filter((name) => name.includes("/Pod/"));
  assert.deepEqual(served(), ["Kubernetes//Pod/shop/alone", "Kubernetes//Pod/shop/other"]);
  mesh.apply(put(forPods("workload")));
  assert.deepEqual(all(), [at, at, undefined, undefined, undefined]);
  assert.deepEqual(
    mesh.compiler.faults().map(({ key, reason }) => [key, reason.split(" (")[0]]),
    [["Service/shop/web", "Gateway shop/gate is not for services"]],
  );
  mesh.apply(put(forPods("none")));
  assert.deepEqual([all(), served()], [[undefined, undefined, undefined, undefined, undefined], []]);
  mesh.apply(put(forPods("pods")));
  assert.match(mesh.compiler.gatewayStatuses()[0]?.conditions[0]?.message ?? "", /"pods" is not one of service, workload, all, none/);
});

test("what is addressed to a pod goes past its waypoint until that was ready once, and stays with it afterwards", () => {
  const mesh = held();
  const programmed = gatewayOf("shop", "gate", { metadata: meta("shop", "gate", FOR_PODS), programmed: true });
  const steps: [MeshObject[], string | undefined][] = [
    [[pod("shop", "alone", USE)], undefined],
    [[{ ...programmed, programmed: false }, front, proxy({ ready: false })], undefined],
    [[proxy()], GATE[0] as string],
    [[programmed, proxy({ ready: false })], GATE[0] as string],
  ];
  for (const [objects, expected] of steps) {
    mesh.apply(put(...objects));
    assert.equal(ofPod(mesh, "alone"), expected);
  }
  mesh.apply(remove(gate));
  assert.equal(ofPod(mesh, "alone"), undefined);
});

const api = (more = {}) => entry("shop", "api", { metadata: meta("shop", "api", USE), hosts: ["a.example.com", "b.example.com"], ...more });
const toApi = (more = {}) =>
  httpRoute(
    "shop",
    "r",
    [httpRule({ backends: [backendOf("shop", "a.example.com", { group: ENTRY_GROUP, kind: "Hostname", port: 5432 })] })],
    {
      parents: [parentOf("shop", "api", { group: ENTRY_GROUP, kind: "ServiceEntry", port: 5432 })],
      ...more,
    },
  );

test("the hosts of a ServiceEntry are reached through its waypoint, each with the routes of the entry", () => {
  const mesh = held();
  mesh.apply(put(api(), toApi(), gate, front, proxy()));
  assert.deepEqual([waypointAt(mesh, "shop/a.example.com"), waypointAt(mesh, "shop/b.example.com")], [GATE, GATE]);
  assert.deepEqual([...mesh.compiler.routes().keys()].sort(), ["shop/a.example.com", "shop/b.example.com"]);
  assert.deepEqual(reasonsOf(mesh.compiler, toApi()), [["Accepted True Accepted", "ResolvedRefs True ResolvedRefs"]]);
  const { producer } = fromBinary(RoutesSchema, mesh.compiler.routes().get("shop/b.example.com")?.body ?? new Uint8Array()).ports[0] ?? {};
  assert.equal(producer?.kind.case === "http" && producer.kind.value.rules[0]?.backends[0]?.service, "shop/a.example.com");
  const scope = () => [...(mesh.compiler.scopeOf("shop/gate")?.addresses ?? [])].sort();
  const endpoint = (host: string) => `Kubernetes/networking.istio.io/ServiceEntry/shop/api/${host}/192.0.2.1`;
  assert.deepEqual(scope(), [
    endpoint("a.example.com"),
    endpoint("b.example.com"),
    "shop/a.example.com",
    "shop/b.example.com",
    "shop/gate.shop.svc.cluster.local",
  ]);
  // An older one takes a host away: its routes and its waypoint are another's business now.
  mesh.apply(put(entry("shop", "old", { hosts: ["b.example.com"], metadata: meta("shop", "old", {}, "2026-01-01T00:00:00Z") })));
  assert.deepEqual([waypointAt(mesh, "shop/b.example.com"), [...mesh.compiler.routes().keys()]], [null, ["shop/a.example.com"]]);
  mesh.apply(remove(api()));
  assert.deepEqual(reasonsOf(mesh.compiler, toApi()), [["Accepted False NoMatchingParent", "ResolvedRefs True ResolvedRefs"]]);
});

test("who is sent to a ServiceEntry that clients of his namespace do not know is refused, and one with several hosts is asked which", () => {
  const mesh = held();
  const refs = [
    backendOf("shop", "api", { group: ENTRY_GROUP, kind: "ServiceEntry", port: 5432 }),
    backendOf("bank", "ledger", { group: ENTRY_GROUP, kind: "ServiceEntry", port: 5432 }),
    backendOf("root", "public", { group: ENTRY_GROUP, kind: "ServiceEntry", port: 5432 }),
    backendOf("shop", "public.example.com", { group: ENTRY_GROUP, kind: "Hostname", port: 5432 }),
    backendOf("shop", "ledger.example.com", { group: ENTRY_GROUP, kind: "Hostname", port: 5432 }),
    backendOf("shop", "web.shop.svc.cluster.local", { group: ENTRY_GROUP, kind: "Hostname" }),
    backendOf("shop", "net", { group: ENTRY_GROUP, kind: "ServiceEntry", port: 5432 }),
  ];
  const open = entry("shop", "net", { resolution: "NONE", endpoints: [], addresses: ["198.51.100.0/24"] });
  mesh.apply(
    put(web, gate, api(), open, entry("bank", "ledger"), entry("root", "public"), httpRoute("shop", "r", [httpRule({ backends: refs })])),
  );
  const { producer } = fromBinary(RoutesSchema, mesh.compiler.routes().get(OF_WEB)?.body ?? new Uint8Array()).ports[0] ?? {};
  assert.equal(producer?.kind.case, "http");
  assert.deepEqual(
    producer.kind.case === "http" && producer.kind.value.rules[0]?.backends.map(({ service, refuseStatus }) => service || refuseStatus),
    [500, 500, "root/public.example.com", "root/public.example.com", 500, OF_WEB, 500],
  );
  const [status] = mesh.compiler.routeStatuses();
  const told = status?.parents[0]?.conditions[1]?.message ?? "";
  for (const part of [
    /several hosts; name one/,
    /for clients of bank alone/,
    /no host ledger.example.com for clients of shop/,
    /resolution NONE/,
  ])
    assert.match(told, part);
});

test("a ServiceEntry whose clients say themselves where to passes no waypoint, and is told if it asks for one", () => {
  const mesh = held();
  mesh.apply(put(api({ resolution: "NONE", endpoints: [], addresses: ["198.51.100.0/24"] }), gate, front, proxy()));
  assert.equal(waypointAt(mesh, "shop/a.example.com"), null);
  assert.match(mesh.compiler.faults()[0]?.reason ?? "", /resolution NONE.*reached without a waypoint/);
  mesh.apply(
    put(namespace("shop", USE), api({ metadata: meta("shop", "api"), resolution: "NONE", endpoints: [], addresses: ["198.51.100.0/24"] })),
  );
  assert.deepEqual([waypointAt(mesh, "shop/a.example.com"), mesh.compiler.faults()], [null, []]);
});

test("a waypoint is told of policies that may say something of what it reaches or of its own pods, and of no others", () => {
  const mesh = held();
  const back = service("bank", "back", { app: "back" });
  const route = httpRoute("shop", "r", [httpRule({ backends: [backendOf("bank", "back")] })]);
  mesh.apply(put(web, back, gate, front, proxy(), route, pod("shop", "web-0", { app: "web" }), pod("bank", "back-0", { app: "back" })));
  const policies = () => [...(mesh.compiler.scopeOf("shop/gate")?.policies ?? [])].sort();
  assert.deepEqual(policies(), []);
  const known = [
    policy("root", "everywhere"),
    policy("shop", "all"),
    policy("bank", "all"),
    policy("bank", "back", { selector: { app: "back" } }),
    policy("root", "picks-web", { selector: { app: "web" } }),
    policy("shop", "gates", { selector: ofGate() }),
  ];
  const strangers = [
    policy("mail", "all"),
    policy("bank", "else", { selector: { app: "else" } }),
    policy("mail", "web", { selector: { app: "web" } }),
  ];
  mesh.apply(put(...known, ...strangers));
  assert.deepEqual(policies(), known.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`).sort());
  const before = mesh.compiler.scopeOf("shop/gate");
  mesh.apply(put(...strangers, policy("mail", "new")));
  assert.equal(mesh.compiler.scopeOf("shop/gate"), before);
  mesh.apply(put(peer("bank", "strict", "STRICT")));
  assert.ok(policies().includes("root/istio_converted_static_strict"));
  mesh.apply(remove(...known, peer("bank", "strict", "STRICT")));
  assert.deepEqual(policies(), []);
});

test("Istio's labels and class count only where they were adopted", () => {
  const theirs = service("shop", "web", {}, { metadata: meta("shop", "web", { "istio.io/use-waypoint": "gate" }) });
  const objects = [theirs, gatewayOf("shop", "gate", { className: "istio-waypoint" }), front, proxy({}, ofGate("istio-waypoint"))];
  for (const [adopt, expected] of [
    ["none", null],
    ["istio", GATE],
  ] as const) {
    const mesh = held(createCompiler({ ...settings, adopt }));
    mesh.apply(put(...objects));
    assert.deepEqual(waypointAt(mesh), expected, adopt);
  }
});

test("a waypoint's pod is reached by HBONE and tunnels by itself, whatever labels say", () => {
  const mesh = held();
  mesh.apply(put(namespace("shop", { "trackbed.dev/mesh": "disabled" }), proxy(), pod("shop", "web", ENABLED)));
  const seen = (name: string) => [mesh.workload("shop", name)?.tunnelProtocol, mesh.workload("shop", name)?.nativeTunnel];
  assert.deepEqual(
    [seen("gate-1"), seen("web")],
    [
      [TunnelProtocol.HBONE, true],
      [TunnelProtocol.HBONE, false],
    ],
  );
});

test("a namespace with waypoint=auto has one as soon as a route needs it, for that service alone", () => {
  const plain = service("shop", "web", { app: "web" });
  const other = service("shop", "other", {});
  const mesh = held();
  mesh.apply(put(namespace("shop", { "trackbed.dev/waypoint": "auto" }), plain, other));
  assert.deepEqual(mesh.compiler.waypoints(), []);
  mesh.apply(put(toWeb));
  assert.deepEqual(
    mesh.compiler.waypoints().map(({ namespace, name, gateway, ready, services }) => [namespace, name, gateway, ready, services]),
    [["shop", "waypoint", null, false, [OF_WEB]]],
  );
  const selector = { [kubernetes.gatewayNameLabel]: "waypoint" };
  mesh.apply(put(service("shop", "waypoint", selector), pod("shop", "w-1", { ...ofGate(), ...selector })));
  assert.deepEqual(waypointAt(mesh), ["waypoint.shop.svc.cluster.local", 15008]);
  assert.equal(waypointAt(mesh, "shop/other.shop.svc.cluster.local"), null);
  mesh.apply(remove(toWeb));
  assert.deepEqual([mesh.compiler.waypoints(), waypointAt(mesh)], [[], null]);
});

test("a waypoint is told of what it serves, its backends and their pods, and of nothing else", () => {
  const mesh = held();
  const back = service("bank", "back", { app: "back" });
  const mirror = service("bank", "mirror", {});
  const route = httpRoute("shop", "r", [
    httpRule({
      backends: [backendOf("bank", "back")],
      filters: [{ type: "RequestMirror", backend: backendOf("bank", "mirror"), numerator: 1, denominator: 1 }],
    }),
  ]);
  mesh.apply(
    put(web, back, mirror, gate, front, proxy(), route, service("shop", "stranger", { app: "s" }), pod("shop", "s-1", { app: "s" })),
  );
  const scope = () => mesh.compiler.scopeOf("shop/gate");
  const services = ["bank/back.bank.svc.cluster.local", "bank/mirror.bank.svc.cluster.local", "shop/gate.shop.svc.cluster.local", OF_WEB];
  assert.deepEqual([...(scope()?.addresses ?? [])].sort(), services);
  assert.deepEqual([...(scope()?.routes ?? [])], [OF_WEB]);
  const before = scope();
  mesh.apply(put(pod("shop", "s-2", { app: "s" })));
  assert.equal(scope(), before);
  mesh.apply(put(pod("bank", "b-1", { app: "back" }), slice("bank", "hand", "mirror", ["192.0.2.9"])));
  const more = ["Kubernetes//Pod/bank/b-1", "Kubernetes/discovery.k8s.io/EndpointSlice/bank/hand/192.0.2.9"];
  assert.deepEqual([...(scope()?.addresses ?? [])].sort(), [...more, ...services]);
  const grown = scope();
  mesh.apply(put(pod("bank", "b-1", { app: "back" }, { ready: false })));
  assert.equal(scope(), grown);
  mesh.apply(remove(route));
  assert.deepEqual([...(scope()?.addresses ?? [])].sort(), ["shop/gate.shop.svc.cluster.local", OF_WEB]);
  assert.equal(mesh.compiler.scopeOf("shop/nobody"), null);
});

test("routes are told of a service that waits for its waypoint already, and of one without a route too", () => {
  const mesh = held();
  mesh.apply(put(web, gate, toWeb));
  const told = () => mesh.compiler.routes().get(OF_WEB)?.body ?? new Uint8Array();
  assert.equal(fromBinary(RoutesSchema, told()).ports[0]?.producer?.kind.case, "http");
  assert.deepEqual(reasonsOf(mesh.compiler, toWeb), [["Accepted True Accepted", "ResolvedRefs True ResolvedRefs"]]);
  mesh.apply(remove(toWeb));
  assert.deepEqual(
    fromBinary(RoutesSchema, told()).ports.map(({ port, producer }) => [port, producer]),
    [[80, undefined]],
  );
  mesh.apply(remove(gate));
  assert.equal(mesh.compiler.routes().size, 0);
});

test("an opaque port is carried as TCP whatever it is called, and routes for every port leave it alone", () => {
  const opaque = (value: string) => ({ annotations: { [annotations.opaquePorts]: value } });
  const mesh = held();
  const told = () => {
    const { ports } = fromBinary(RoutesSchema, mesh.compiler.routes().get(OF_WEB)?.body ?? new Uint8Array());
    return ports.map(({ protocol, producer }) => [protocol, producer === undefined]);
  };
  const own = (value: string) => service("shop", "web", { app: "web" }, { metadata: { ...meta("shop", "web", USE), ...opaque(value) } });
  const space = (value: string): MeshObject => ({ kind: "Namespace", metadata: { ...meta("", "shop"), ...opaque(value) } });
  const [asCalled, asTcp] = [[[Protocol.HTTP, false]], [[Protocol.TCP, true]]];
  mesh.apply(put(web, gate, toWeb));
  assert.deepEqual(told(), asCalled);
  mesh.apply(put(space("1-100,8080")));
  assert.deepEqual(told(), asTcp);
  mesh.apply(put(own("81")));
  assert.deepEqual(told(), asCalled);
  mesh.apply(put(own("80 - 90")));
  assert.deepEqual([told(), mesh.compiler.faults().map(({ field }) => field)], [asTcp, ["metadata.annotations.trackbed.dev/opaque-ports"]]);
  mesh.apply(put(own("80-90")));
  assert.deepEqual([told(), mesh.compiler.faults()], [asTcp, []]);
});

test("routes that would not fit into a message refuse what they are about, and the service says so", () => {
  const value = "v".repeat(4096);
  const matches = Array.from({ length: 600 }, (_, i) => matchOf({ headers: [{ type: "Exact", name: `h${i}`, value }] }));
  const large = httpRoute("shop", "r", [httpRule({ matches, backends: [backendOf("shop", "web")] })]);
  const mesh = held();
  mesh.apply(put(web, gate, large));
  const table = () => fromBinary(RoutesSchema, mesh.compiler.routes().get(OF_WEB)?.body ?? new Uint8Array());
  const http = () => {
    const kind = table().ports[0]?.producer?.kind;
    return kind?.case === "http" ? kind.value.entries.length : null;
  };
  assert.deepEqual([http(), mesh.compiler.faults().map(({ key }) => key)], [0, ["Service/shop/web"]]);
  mesh.apply(put(toWeb));
  assert.deepEqual([http(), mesh.compiler.faults()], [1, []]);
});

test("the status of a Gateway says what is wrong with it, whether it is ready, and how many routes it has", () => {
  const mesh = held();
  const listeners = [{ name: "mesh", port: 15008, protocol: "HBONE", from: "Same", selector: {} }];
  const conditions = () => {
    const [status] = mesh.compiler.gatewayStatuses();
    const texts = (list: readonly { type: string; status: string; reason: string }[] = []) =>
      list.map((one) => `${one.type} ${one.status} ${one.reason}`);
    return [
      texts(status?.conditions),
      status?.addresses.length,
      status?.listeners.map((one) => [one.attachedRoutes, ...texts(one.conditions)]),
    ];
  };
  mesh.apply(put(web, toWeb, gatewayOf("shop", "gate", { listeners })));
  assert.deepEqual(conditions(), [
    ["Accepted True Accepted", "Programmed False Pending"],
    0,
    [[1, "Accepted True Accepted", "Programmed False Pending", "ResolvedRefs True ResolvedRefs"]],
  ]);
  mesh.apply(put(front, proxy()));
  assert.deepEqual(conditions()[0], ["Accepted True Accepted", "Programmed True Programmed"]);
  mesh.apply(put(gatewayOf("shop", "gate", { listeners: [{ name: "web", port: 80, protocol: "HTTP", from: "Same", selector: {} }] })));
  assert.deepEqual(conditions(), [
    ["Accepted False ListenersNotValid", "Programmed True Programmed"],
    1,
    [[1, "Accepted False UnsupportedProtocol", "Programmed False Invalid", "ResolvedRefs True ResolvedRefs"]],
  ]);
  mesh.apply(put(gatewayOf("shop", "gate", { listeners, unsupported: [{ field: "spec.tls", reason: "no" }] })));
  assert.equal(conditions()[0]?.toString(), "Accepted False Invalid,Programmed True Programmed");
});

test("a pod behind a waypoint costs its own resource and no table", () => {
  const mesh = held();
  const pods = Array.from({ length: 100 }, (_, i) => pod("shop", `web-${i}`, { app: "web" }));
  mesh.apply(put(web, gate, front, proxy(), toWeb, ...pods));
  mesh.compiler.scopeOf("shop/gate");
  const [status] = mesh.compiler.routeStatuses();
  assert.equal(mesh.apply(put(pod("shop", "web-7", { app: "web" }, { ready: false }))), 1);
  assert.equal(mesh.apply(put(proxy({ nodeName: "n2" }))), 1);
  assert.equal(mesh.compiler.routeStatuses()[0], status);
});

/** All that the compiler says of waypoints, in an order of its own. */
function all(compiler: Compiler) {
  const waypoints = compiler.waypoints();
  return {
    waypoints,
    scopes: waypoints.map((one) => {
      const scope = compiler.scopeOf(waypointKey(one));
      return [scope?.addresses, scope?.routes, scope?.policies].map((names) => [...(names ?? [])].sort());
    }),
    routes: [...compiler.routes()].map(([name, { version }]) => [name, version]).sort(),
    statuses: [...compiler.routeStatuses(), ...compiler.gatewayStatuses()].map((one) => JSON.stringify(one)).sort(),
    faults: compiler
      .faults()
      .map((one) => JSON.stringify(one))
      .sort(),
  };
}

test("any sequence of changes gives the waypoints that a compiler that starts with the result gives", () => {
  const bound = fc.constantFrom<Labels>(
    {},
    USE,
    USE,
    { ...USE, "trackbed.dev/use-waypoint-namespace": "shop" },
    { "trackbed.dev/waypoint": "auto" },
  );
  const place = fc.constantFrom("shop", "shop", "bank");
  const name = fc.constantFrom("web", "web", "back");
  const object: fc.Arbitrary<MeshObject> = fc.oneof(
    fc.tuple(place, bound).map(([n, l]) => namespace(n, l)),
    fc.tuple(place, name, bound, fc.boolean(), fc.constantFrom(80, 8080)).map(([ns, n, l, headless, port]) =>
      service(
        ns,
        n,
        { app: n },
        {
          metadata: meta(ns, n, l),
          ports: [{ name: "http", port, targetPort: port, protocol: "TCP", appProtocol: "" }],
          ...(headless ? { clusterIPs: [] } : {}),
        },
      ),
    ),
    fc.tuple(place, fc.boolean()).map(([ns, selects]) => service(ns, "gate", selects ? { [kubernetes.gatewayNameLabel]: "gate" } : {})),
    fc.tuple(place, fc.boolean(), fc.boolean()).map(([ns, ready, ours]) => pod(ns, "gate-1", ours ? ofGate() : {}, { ready })),
    fc.tuple(place, name, name, bound).map(([ns, n, app, l]) => pod(ns, `${n}-1`, { app, ...l })),
    fc
      .tuple(place, name, fc.constantFrom<Labels>({}, { app: "web" }))
      .map(([ns, n, selector]) => policy(ns === "bank" ? "root" : ns, n, { selector })),
    fc
      .tuple(place, fc.constantFrom<Labels>({}, { app: "web" }))
      .map(([ns, selector]) => peer(ns === "bank" ? "root" : ns, "p", "STRICT", { selector })),
    fc
      .tuple(
        place,
        name,
        bound,
        fc.uniqueArray(fc.constantFrom("a", "b", "c"), { minLength: 1 }),
        fc.constantFrom("NONE", "STATIC", "PODS"),
      )
      .map(([ns, n, l, hosts, how]) =>
        entry(ns, n, {
          metadata: meta(ns, n, l),
          hosts: hosts.map((host) => `${host}.example.com`),
          ...(how === "STATIC" ? {} : { endpoints: [] }),
          ...(how === "NONE" ? { resolution: how, addresses: ["198.51.100.0/24"] } : {}),
          ...(how === "PODS" ? { selector: { app: "web" } } : {}),
        }),
      ),
    fc.tuple(place, name).map(([ns, of]) => slice(ns, "hand", of, ["192.0.2.1"])),
    fc
      .tuple(
        place,
        fc.constantFrom("trackbed-waypoint", "trackbed-waypoint", "other"),
        fc.constantFrom("Same", "All"),
        fc.boolean(),
        fc.constantFrom<Labels>({}, FOR_PODS, { "trackbed.dev/waypoint-for": "all" }),
      )
      .map(([ns, className, from, programmed, l]) =>
        gatewayOf(ns, "gate", {
          metadata: meta(ns, "gate", l),
          className,
          programmed,
          listeners: [{ name: "mesh", port: 15008, protocol: "HBONE", from, selector: {} }],
        }),
      ),
    fc
      .tuple(
        place,
        fc.constantFrom("r", "s"),
        place,
        name,
        place,
        name,
        fc.constantFrom("HTTPRoute" as const, "TCPRoute" as const),
        fc.boolean(),
        fc.constantFrom("", "ServiceEntry", "Hostname"),
      )
      .map(([ns, n, parentNs, parent, backendNs, backend, kind, supported, other]) => {
        const ofEntry = { group: "networking.istio.io", kind: "ServiceEntry" };
        const parents = [parentOf(parentNs, parent, other === "ServiceEntry" ? ofEntry : {})];
        const unsupported = supported ? [] : [{ field: "spec.x", reason: "unknown" }];
        const more = other === "" ? {} : { ...ofEntry, kind: other, port: 5432 };
        const backends = [backendOf(backendNs, other === "Hostname" ? "a.example.com" : backend, more)];
        return kind === "HTTPRoute"
          ? httpRoute(ns, n, [httpRule({ backends })], { parents, unsupported })
          : streamRoute(kind, ns, n, [{ name: "", backends }], { parents, unsupported });
      }),
  );
  const step = fc.record({ put: fc.array(object, { minLength: 1, maxLength: 4 }), drop: fc.array(fc.nat(30), { maxLength: 1 }) });
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 30 }), (steps) => {
      const incremental = held();
      incremental.apply(null);
      for (const { put, drop } of steps) {
        const present = [...incremental.compiler.objects()];
        const gone = drop.flatMap((i) => present[i] ?? []).map(keyOf);
        incremental.apply({ reset: false, put: [...new Map(put.map((one) => [keyOf(one), one])).values()], remove: gone });
        all(incremental.compiler); // asked for in between, so that what is kept of it is wrong if ever it is outdated
      }
      const scratch = held();
      scratch.apply({ reset: true, put: [...incremental.compiler.objects()], remove: [] });
      assert.deepEqual(all(incremental.compiler), all(scratch.compiler));
      const services = (mesh: ReturnType<typeof held>) =>
        ["shop", "bank"].flatMap((ns) => ["web", "back", "gate"].map((n) => waypointAt(mesh, `${ns}/${n}.${ns}.svc.cluster.local`)));
      assert.deepEqual(services(incremental), services(scratch));
      assert.deepEqual([...incremental.resources].sort(), [...scratch.resources].sort());
    }),
    { numRuns: 300 },
  );
});
