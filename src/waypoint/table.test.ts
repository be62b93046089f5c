// Claims about what becomes of routes: of kinds that compete for a port, of references that lead nowhere, of filters and weights.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Protocol } from "#contract/gen/route_pb.ts";
import type { Service } from "#mesh/objects.ts";
import type { Route } from "#mesh/route.ts";
import { backendOf, grpcRoute, httpRoute, httpRule, matchOf, parentOf, streamRoute } from "#mesh/route-specimen.ts";
import { meta } from "#mesh/specimen.ts";
import { routeStatus } from "./route-status.ts";
import { destinationOf, knownOf } from "./specimen.ts";
import type { Standing } from "./standing.ts";
import { compileTable, type Table } from "./table.ts";

const NAMES = Object.fromEntries(Object.entries(Protocol).map(([name, value]) => [value, name]));
const PORTS = [
  ["http", 80, ""],
  ["web", 7000, ""],
  ["tcp", 9000, ""],
  ["tls", 443, "https"],
  ["rpc", 9090, "grpc"],
] as const;

const serviceOf = (name: string, more: Partial<Service> = {}): Service => ({
  kind: "Service",
  metadata: meta("shop", name),
  type: "ClusterIP",
  clusterIPs: ["10.96.0.1"],
  selector: {},
  ports: PORTS.map(([name, port, appProtocol]) => ({ name, port, targetPort: port, protocol: "TCP", appProtocol })),
  trafficDistribution: "",
  publishNotReadyAddresses: false,
  ...more,
});

const web = serviceOf("web");
const services = [web, serviceOf("alias", { type: "ExternalName", clusterIPs: [] }), serviceOf("headless", { clusterIPs: [] })];
const known = knownOf(services);
const READY: Standing = { kind: "ready", gateway: { namespace: "shop", name: "gate" }, canary: null, fault: "" };

const compile = (...routes: Route[]): Table => compileTable(destinationOf(web), routes, known);

/** "Accepted reason, ResolvedRefs reason" of each parent. */
function reasons(route: Route, { routes = [route], service = web as Service | null, standing = READY } = {}): string[] {
  const table = service === null ? null : compileTable(destinationOf(service), routes, known);
  const { parents } = routeStatus(route, (_, index) =>
    service === null || table === null
      ? null
      : {
          destination: destinationOf(service),
          standing,
          verdict: table.verdicts.get(route)?.get(index),
          faults: table.faults.get(route) ?? [],
        },
  );
  return parents.map(({ conditions }) => conditions.map(({ reason }) => reason).join(", "));
}

const plain = (name: string, more = {}) => httpRoute("shop", name, [httpRule({ backends: [backendOf("shop", "web")] })], more);

test("of several kinds on one port the first by rank has it, port by port, and the others are told", () => {
  const grpc = grpcRoute("shop", "g", [{ name: "", matches: [], filters: [], backends: [backendOf("shop", "web", { port: 9090 })] }], {
    parents: [parentOf("shop", "web", { port: 80 })],
  });
  const http = plain("h", { parents: [parentOf("shop", "web", { port: 80 }), parentOf("shop", "web")] });
  const tcp = streamRoute("TCPRoute", "shop", "t", [{ name: "", backends: [backendOf("shop", "web")] }], {
    parents: [parentOf("shop", "web", { port: 80 })],
  });
  const all = [tcp, http, grpc];
  const [ok, refs] = ["Accepted", "ResolvedRefs"];
  assert.deepEqual(
    all.map((route) => reasons(route, { routes: all })),
    [[`Conflicted, ${refs}`], [`Conflicted, ${refs}`, `${ok}, ${refs}`], [`${ok}, ${refs}`]],
  );
  assert.deepEqual(reasons(tcp), [`${ok}, ${refs}`]);
});

test("a route that is not accepted takes a port from no other", () => {
  const bad = grpcRoute("shop", "g", [{ name: "", matches: [], filters: [], backends: [] }], {
    unsupported: [{ field: "spec.x", reason: "new" }],
  });
  const good = plain("h");
  const routes = [bad, good];
  assert.deepEqual([reasons(bad, { routes }), reasons(good, { routes })], [["UnsupportedValue, ResolvedRefs"], ["Accepted, ResolvedRefs"]]);
});

test("a consumer's kind is ranked by itself", () => {
  const grpc = grpcRoute("shop", "g", [{ name: "", matches: [], filters: [], backends: [] }]);
  const consumer = httpRoute("bank", "h", [httpRule()], { parents: [parentOf("shop", "web")] });
  const { routes } = compile(grpc, consumer);
  const port = routes.ports.find((one) => one.port === 80);
  assert.deepEqual([port?.producer?.kind.case, Object.keys(port?.consumers ?? {}), port?.protocol], ["http", ["bank"], Protocol.GRPC]);
});

test("ports are attached by number, by name, by both, or by what is spoken there", () => {
  const at = (parent: Parameters<typeof parentOf>[2], kind: "HTTPRoute" | "TLSRoute" | "TCPRoute" = "HTTPRoute") => {
    const parents = [parentOf("shop", "web", parent)];
    const route =
      kind === "HTTPRoute" ? plain("r", { parents }) : streamRoute(kind, "shop", "r", [{ name: "", backends: [] }], { parents });
    return compile(route).verdicts.get(route)?.get(0)?.ports ?? [];
  };
  assert.deepEqual(at({}), [80, 7000, 9090]);
  assert.deepEqual(at({ port: 9000 }), [9000]);
  assert.deepEqual(at({ sectionName: "web" }), [7000]);
  assert.deepEqual(at({ sectionName: "web", port: 80 }), []);
  assert.deepEqual(at({ port: 1 }), []);
  assert.deepEqual(at({}, "TLSRoute"), [7000, 443]);
  assert.deepEqual(at({}, "TCPRoute"), [80, 7000, 9000, 443, 9090]);
});

test("what clients speak is what the port declares, or the route that names the port, or found out", () => {
  const protocols = (...routes: Route[]) => compile(...routes).routes.ports.map(({ protocol }) => NAMES[protocol]);
  assert.deepEqual(protocols(), ["HTTP", "UNSPECIFIED", "TCP", "TLS", "GRPC"]);
  assert.deepEqual(protocols(plain("r")), ["HTTP", "UNSPECIFIED", "TCP", "TLS", "GRPC"]);
  const named = plain("r", { parents: [7000, 9000].map((port) => parentOf("shop", "web", { port })) });
  assert.deepEqual(protocols(named), ["HTTP", "HTTP", "HTTP", "TLS", "GRPC"]);
  assert.deepEqual(protocols(streamRoute("TCPRoute", "shop", "t", [{ name: "", backends: [] }])), ["TCP", "TCP", "TCP", "TCP", "TCP"]);
});

test("parents that nothing is reached through are told apart", () => {
  const cases: [Parameters<typeof reasons>[1], string][] = [
    [{ service: null }, "NoMatchingParent"],
    [{ service: serviceOf("web", { clusterIPs: [] }) }, "NoMatchingParent"],
    [{ service: serviceOf("web", { type: "ExternalName", clusterIPs: [] }) }, "NoMatchingParent"],
    [{ service: serviceOf("web", { ports: [] }) }, "NoMatchingParent"],
    [{ standing: { kind: "none", reason: "nobody asked" } }, "NoWaypoint"],
    [{ standing: { kind: "absent", gateway: { namespace: "a", name: "b" }, reason: "gone" } }, "NoWaypoint"],
    [{ standing: { ...READY, kind: "waiting" } }, "Accepted"],
  ];
  for (const [facts, reason] of cases) assert.deepEqual(reasons(plain("r"), facts), [`${reason}, ResolvedRefs`], reason);
  const ofGateway = plain("r", { parents: [parentOf("shop", "web", { group: "gateway.networking.k8s.io", kind: "Gateway" })] });
  assert.deepEqual(reasons(ofGateway), []);
});

test("a backend that cannot be used refuses its share, and the status says why", () => {
  const cases: [Parameters<typeof backendOf>[2], string, string][] = [
    [{}, "nobody", "BackendNotFound"],
    [{ port: 1 }, "web", "BackendNotFound"],
    [{ port: null }, "web", "BackendNotFound"],
    [{}, "alias", "BackendNotFound"],
    [{ kind: "Bucket", group: "storage" }, "web", "InvalidKind"],
  ];
  for (const [more, name, reason] of cases) {
    const route = httpRoute("shop", "r", [
      httpRule({ backends: [backendOf("shop", name, { ...more, weight: 3 }), backendOf("shop", "headless")] }),
    ]);
    const { kind } = compile(route).routes.ports[0]?.producer ?? { kind: { case: undefined } };
    const backends = kind.case === "http" ? kind.value.rules[0]?.backends : undefined;
    assert.deepEqual(
      backends?.map(({ service, weight, refuseStatus }) => [service, weight, refuseStatus]),
      [
        ["", 3, 500],
        ["shop/headless.shop.svc.cluster.local", 1, 0],
      ],
    );
    assert.deepEqual(reasons(route), [`Accepted, ${reason}`]);
  }
});

const rulesIn = (table: Table) => {
  const { kind } = table.routes.ports[0]?.producer ?? { kind: { case: undefined } };
  assert.ok(kind.case === "http");
  return kind.value.rules;
};

test("a rule without a backend, or with weights of nothing, is refused; one that redirects needs none", () => {
  const nothing = [backendOf("shop", "web", { weight: 0 })];
  const redirect = { type: "RequestRedirect", scheme: "https", hostname: "", path: null, port: null, status: 301 } as const;
  const rules = rulesIn(compile(httpRoute("shop", "r", [httpRule(), httpRule({ backends: nothing }), httpRule({ filters: [redirect] })])));
  assert.deepEqual(
    rules.map(({ backends }) => backends.map(({ weight, refuseStatus }) => [weight, refuseStatus])),
    [[[1, 500]], [[1, 500]], []],
  );
});

test("filters keep their order, names of headers are lower case, and a mirror that leads nowhere is left out and told", () => {
  const mirror = (name: string, numerator: number) => ({
    type: "RequestMirror" as const,
    backend: backendOf("shop", name),
    numerator,
    denominator: 100,
  });
  const route = httpRoute("shop", "r", [
    httpRule({
      matches: [matchOf()],
      backends: [backendOf("shop", "web")],
      filters: [
        mirror("web", 30),
        { type: "ResponseHeaderModifier", change: { set: [{ name: "X-A", value: "V" }], add: [], remove: ["X-B"] } },
        mirror("nobody", 100),
        mirror("web", 0),
        { type: "URLRewrite", hostname: "", path: { type: "ReplacePrefixMatch", value: "/" } },
      ],
    }),
  ]);
  const filters = rulesIn(compile(route))[0]?.filters ?? [];
  assert.deepEqual(
    filters.map(({ kind }) => kind.case),
    ["mirror", "responseHeaders", "rewrite"],
  );
  const change = filters[1]?.kind;
  assert.deepEqual(change?.case === "responseHeaders" && [change.value.set[0]?.name, change.value.remove], ["x-a", ["x-b"]]);
  assert.deepEqual(reasons(route), ["Accepted, BackendNotFound"]);
});

test("the status repeats the parentRef as it was written, and the generation that was looked at", () => {
  const written = { group: "", kind: "Service", name: "web", port: 80 };
  const route = plain("r", { generation: 7, parents: [parentOf("shop", "web", { port: 80, written })] });
  const { parents } = routeStatus(route, () => null);
  assert.deepEqual(
    parents.map(({ parentRef, controllerName, conditions }) => [
      parentRef,
      controllerName,
      conditions.map((one) => one.observedGeneration),
    ]),
    [[written, "trackbed.dev/waypoint", [7, 7]]],
  );
});
