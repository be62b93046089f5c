// Claims about what is written into the status of routes, Gateways and their class, against an API server in memory.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { meshError } from "#mesh/error.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { controlResources } from "#source/kubernetes/resources.ts";
import { projectDocument } from "#source/project/project.ts";
import type { Condition, GatewayStatus, PolicyStatus, RouteStatus } from "#waypoint/status.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { createGatewayStatus } from "./gateway-status.ts";

const ROOT = "/apis/gateway.networking.k8s.io/v1";
const ROUTES = `${ROOT}/httproutes`;
const GATEWAYS = `${ROOT}/gateways`;
const OURS = "trackbed.dev/waypoint";
const FOREIGN = {
  controllerName: "example.com/gateway",
  parentRef: { name: "edge" },
  conditions: [{ type: "Accepted", status: "True", reason: "Accepted", message: "", lastTransitionTime: "2020-01-01T00:00:00Z" }],
};

type Entry = { controllerName: string; parentRef: Record<string, unknown>; conditions: Record<string, unknown>[] };

const condition = (type: Condition["type"], status: Condition["status"], reason: string): Condition => ({
  type,
  status,
  reason,
  message: "",
  observedGeneration: 1,
});

const routeStatus = (parents: readonly (readonly [service: string, status: Condition["status"]])[]): RouteStatus => ({
  key: "HTTPRoute/shop/web",
  parents: parents.map(([name, status]) => ({
    parentRef: { group: "", kind: "Service", name },
    controllerName: OURS,
    conditions: [condition("Accepted", status, status === "True" ? "Accepted" : "NoMatchingParent")],
  })),
});

const gatewayStatus = (programmed: Condition["status"]): GatewayStatus => ({
  key: "Gateway/shop/way",
  conditions: [
    condition("Accepted", "True", "Accepted"),
    condition("Programmed", programmed, programmed === "True" ? "Programmed" : "Pending"),
  ],
  addresses: [{ type: "Hostname", value: "way.shop.svc.cluster.local" }],
  listeners: [{ name: "mesh", supportedKinds: [], attachedRoutes: 0, conditions: [condition("Accepted", "True", "Accepted")] }],
});

async function until(what: string, done: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !done(); ) {
    if (performance.now() > end) assert.fail(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function cluster(t: TestContext, leads = true) {
  const server = await fakeApi();
  for (const plural of ["httproutes", "gateways", "gatewayclasses"]) server.serve(`${ROOT}/${plural}`);
  const stop = new AbortController();
  t.after(async () => {
    stop.abort();
    await server.close();
  });
  let leader = leads;
  const writer = createGatewayStatus(
    {
      api: createApi(server.credentials),
      resources: controlResources(),
      isLeader: () => leader,
      onWritten: () => undefined,
      onError: () => undefined,
      times: { perSecond: 1000, retryMilliseconds: { first: 5, most: 20 } },
    },
    stop.signal,
  );
  type Told = { routes?: readonly RouteStatus[]; gateways?: readonly GatewayStatus[]; policies?: readonly PolicyStatus[] };
  const tell = async (now: Told) => {
    writer.changed({ routes: [], gateways: [], policies: [], ...now });
    await writer.idle();
  };
  const route = (parents: readonly object[] = []) =>
    server.put(ROUTES, { metadata: { name: "web", namespace: "shop", generation: 1 }, status: { parents } });
  const parents = () => (server.get(ROUTES, "shop", "web")?.["status"] as { parents?: Entry[] } | undefined)?.parents ?? [];
  const gateway = () =>
    server.get(GATEWAYS, "shop", "way")?.["status"] as { conditions: Record<string, unknown>[] } & Record<string, unknown>;
  const writes = () => server.requests.filter(({ method }) => method === "PATCH").length;
  const lead = (): void => {
    leader = true;
    writer.elected();
  };
  return { server, writer, tell, route, parents, gateway, writes, lead };
}

test("a route's parents of ours are written beside those of other controllers, which stay as they are", async (t) => {
  const c = await cluster(t);
  c.route([FOREIGN]);
  await c.tell({
    routes: [
      routeStatus([
        ["web", "True"],
        ["api", "False"],
      ]),
    ],
  });
  const [foreign, ...ours] = c.parents();
  assert.deepEqual(foreign, FOREIGN);
  assert.deepEqual(
    ours.map(({ controllerName, parentRef, conditions }) => [controllerName, parentRef["name"], conditions[0]?.["status"]]),
    [
      [OURS, "web", "True"],
      [OURS, "api", "False"],
    ],
  );
});

test("what a policy came to at its targets is written beside what other controllers say of it, and once", async (t) => {
  const c = await cluster(t);
  const POLICIES = "/apis/trackbed.dev/v1alpha1/requestpolicies";
  const { parentRef: _, ...rest } = FOREIGN;
  const foreign = { ...rest, ancestorRef: { name: "edge" } };
  c.server.put(POLICIES, { metadata: { name: "limit", namespace: "shop", generation: 1 }, status: { ancestors: [foreign] } });
  const policy = (status: Condition["status"]): PolicyStatus => ({
    key: "RequestPolicy/shop/limit",
    ancestors: [
      {
        ancestorRef: { group: "", kind: "Service", name: "web" },
        controllerName: OURS,
        conditions: [condition("Accepted", status, "Accepted")],
      },
    ],
  });
  type Ancestors = { ancestors: { controllerName: string; conditions: { status: string }[] }[] };
  const ancestors = () => (c.server.get(POLICIES, "shop", "limit")?.["status"] as Ancestors | undefined)?.ancestors ?? [];
  await c.tell({ policies: [policy("True")] });
  assert.deepEqual(
    ancestors().map(({ controllerName, conditions }) => [controllerName, conditions[0]?.status]),
    [
      [FOREIGN.controllerName, "True"],
      [OURS, "True"],
    ],
  );
  const writes = c.writes();
  await c.tell({ policies: [policy("True")] });
  assert.equal(c.writes(), writes);
  await c.tell({ policies: [policy("False")] });
  assert.deepEqual([ancestors().at(-1)?.conditions[0]?.status, ancestors().length], ["False", 2]);
});

test("an entry of ours that does not hold any more goes, the others stay", async (t) => {
  const c = await cluster(t);
  c.route([FOREIGN]);
  await c.tell({
    routes: [
      routeStatus([
        ["web", "True"],
        ["api", "True"],
      ]),
    ],
  });
  await c.tell({ routes: [routeStatus([["web", "True"]])] });
  assert.deepEqual(
    c.parents().map(({ parentRef }) => parentRef["name"]),
    ["edge", "web"],
  );
  await c.tell({ routes: [routeStatus([])] });
  assert.deepEqual(c.parents(), [FOREIGN]);
});

test("what is there already is not written again, and the time of a condition changes with its status only", async (t) => {
  const c = await cluster(t);
  const written = { controllerName: OURS, parentRef: { kind: "Service", name: "web", group: "" } };
  const since = "2020-01-01T00:00:00Z";
  c.route([{ ...written, conditions: [{ ...condition("Accepted", "True", "Accepted"), lastTransitionTime: since }] }]);
  await c.tell({ routes: [routeStatus([["web", "True"]])] });
  assert.equal(c.writes(), 0);
  const renewed = routeStatus([["web", "True"]]);
  const [parent] = renewed.parents;
  assert.ok(parent !== undefined);
  await c.tell({
    routes: [
      { ...renewed, parents: [{ ...parent, conditions: [{ ...condition("Accepted", "True", "Accepted"), observedGeneration: 2 }] }] },
    ],
  });
  assert.deepEqual([c.writes(), c.parents()[0]?.conditions[0]?.["lastTransitionTime"]], [1, since]);
  await c.tell({ routes: [routeStatus([["web", "False"]])] });
  assert.notEqual(c.parents()[0]?.conditions[0]?.["lastTransitionTime"], since);
});

test("a route that was made anew under its name gets its status again, though it is the same", async (t) => {
  const c = await cluster(t);
  const { object } = projectDocument({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "web", namespace: "shop" },
    spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules: [{}] },
  });
  assert.ok(object !== null);
  c.route();
  const status = routeStatus([["web", "True"]]);
  await c.tell({ routes: [status] });
  c.server.delete(ROUTES, "shop", "web");
  c.route();
  c.writer.noticed({ put: [object] });
  await c.tell({ routes: [status] });
  assert.equal(c.parents().length, 1);
});

test("two that write at the same time lose nothing of each other's", async (t) => {
  const c = await cluster(t);
  c.route();
  let raced = false;
  c.server.fault = ({ method }) => {
    if (method === "PATCH" && !raced) {
      raced = true;
      c.route([FOREIGN]); // another controller, between our reading and our writing
    }
    return null;
  };
  await c.tell({ routes: [routeStatus([["web", "True"]])] });
  await until("both are there", () => c.parents().length === 2);
  assert.deepEqual(c.parents()[0], FOREIGN);
});

test("a Gateway says what stands against its waypoint, until nothing does; one that was programmed stays so", async (t) => {
  const c = await cluster(t);
  c.server.put(GATEWAYS, { metadata: { name: "way", namespace: "shop", generation: 1 } });
  const programmed = () => c.gateway().conditions.find(({ type }) => type === "Programmed");
  const accepted = () => c.gateway().conditions.find(({ type }) => type === "Accepted");
  await c.tell({ gateways: [gatewayStatus("False")] });
  assert.deepEqual(
    [programmed()?.["reason"], c.gateway()["addresses"]],
    ["Pending", [{ type: "Hostname", value: "way.shop.svc.cluster.local" }]],
  );
  c.writer.problem("Gateway/shop/way", meshError("E_WAYPOINT_NOT_MADE", "Service shop/way is there already"));
  await c.writer.idle();
  assert.deepEqual([programmed()?.["reason"], programmed()?.["message"]], ["Invalid", "Service shop/way is there already"]);
  c.writer.problem("Gateway/shop/way", meshError("E_WAYPOINT_PARAMETERS", "ConfigMap shop/size: replicas"));
  await c.writer.idle();
  assert.deepEqual([accepted()?.["status"], accepted()?.["reason"]], ["False", "InvalidParameters"]);
  c.writer.problem("Gateway/shop/way", null);
  await c.tell({ gateways: [gatewayStatus("True")] });
  assert.deepEqual([accepted()?.["status"], programmed()?.["status"]], ["True", "True"]);
  c.writer.problem("Gateway/shop/way", meshError("E_WAYPOINT_NOT_MADE", "no"));
  await c.writer.idle();
  assert.equal(programmed()?.["status"], "True");
});

test("the class of our waypoints is accepted", async (t) => {
  const c = await cluster(t);
  c.server.put(`${ROOT}/gatewayclasses`, { metadata: { name: "trackbed-waypoint", generation: 1 } });
  c.writer.classMade();
  await c.writer.idle();
  const status = c.server.all(`${ROOT}/gatewayclasses`)[0]?.["status"] as { conditions: Record<string, unknown>[] };
  assert.deepEqual([status.conditions[0]?.["type"], status.conditions[0]?.["status"]], ["Accepted", "True"]);
});

test("only the replica that holds the Lease writes, and it begins when it gets it", async (t) => {
  const c = await cluster(t, false);
  c.route();
  await c.tell({ routes: [routeStatus([["web", "True"]])] });
  assert.equal(c.writes(), 0);
  c.lead();
  await until("it is written", () => c.parents().length === 1);
});

test("a route of an older version of the API is written where the cluster has it", async (t) => {
  const c = await cluster(t);
  const older = "/apis/gateway.networking.k8s.io/v1alpha2/tcproutes";
  c.server.put(older, { metadata: { name: "db", namespace: "shop", generation: 1 }, status: { parents: [] } });
  await c.tell({ routes: [{ ...routeStatus([["web", "True"]]), key: "TCPRoute/shop/db" }] });
  const status = c.server.get(older, "shop", "db")?.["status"] as { parents: Entry[] };
  assert.equal(status.parents.length, 1);
});
