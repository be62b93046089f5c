// Claims about waypoints that are made, kept and let go, against an API server in memory.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Gateway } from "#mesh/gateway.ts";
import { meta } from "#mesh/specimen.ts";
import { createApi } from "#source/kubernetes/api.ts";
import type { Waypoint } from "#waypoint/waypoint.ts";
import { type ApiObject, fakeApi } from "../../../test/apiserver.ts";
import { createProvision } from "./provision.ts";

const CORE = "/api/v1";
const DEPLOYMENTS = "/apis/apps/v1/deployments";
const BUDGETS = "/apis/policy/v1/poddisruptionbudgets";
const GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways";
const CLASSES = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
const MADE = [`${CORE}/serviceaccounts`, `${CORE}/services`, DEPLOYMENTS, BUDGETS];

const gatewayOf = (name: string, more: Partial<Gateway> = {}): Gateway => ({
  kind: "Gateway",
  metadata: meta("shop", name),
  generation: 1,
  className: "trackbed-waypoint",
  listeners: [{ name: "mesh", port: 15008, protocol: "HBONE", from: "Same", selector: {} }],
  infrastructure: { labels: {}, annotations: {}, parametersRef: null },
  programmed: false,
  unsupported: [],
  ...more,
});

const waypointOf = (gateway: Gateway | null, more: Partial<Waypoint> = {}): Waypoint => ({
  namespace: gateway?.metadata.namespace ?? "shop",
  name: gateway?.metadata.name ?? "waypoint",
  gateway,
  className: "trackbed-waypoint",
  ready: false,
  services: [],
  ...more,
});

function there<T>(value: T | undefined): T {
  assert.ok(value !== undefined);
  return value;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function cluster(t: TestContext, times: { sweepMilliseconds?: number; idleMilliseconds?: number; leads?: boolean } = {}) {
  const server = await fakeApi();
  for (const collection of [...MADE, GATEWAYS, CLASSES]) server.serve(collection);
  const stop = new AbortController();
  t.after(async () => {
    stop.abort();
    await server.close();
  });
  const problems = new Map<string, string | null>();
  const { leads = true, ...rest } = times;
  let leader = leads;
  const provision = createProvision(
    {
      api: createApi(server.credentials),
      namespace: "trackbed-system",
      image: async () => ({ image: "registry/trackbed:1", pullPolicy: "Always", pullSecrets: ["pull"] }),
      roots: () => "ROOTS",
      isLeader: () => leader,
      onMade: () => undefined,
      onClass: (error) => problems.set("class", error === null ? null : String(error)),
      onProblem: (key, error) => problems.set(key, error === null ? null : String(error)),
      times: { perSecond: 1000, retryMilliseconds: { first: 10, most: 50 } },
      ...rest,
    },
    stop.signal,
  );
  const lead = (): void => {
    leader = true;
    provision.elected();
  };
  const made = (collection: string, name = "way"): ApiObject | undefined => server.get(collection, "shop", name);
  return { server, provision, problems, lead, made };
}

test("a Gateway becomes ServiceAccount, Service, Deployment, budget and the roots, all owned by it", async (t) => {
  const { server, provision, made } = await cluster(t);
  const gateway = gatewayOf("way", { infrastructure: { labels: { team: "a" }, annotations: { note: "b" }, parametersRef: null } });
  provision.changed([waypointOf(gateway)]);
  await provision.idle();
  for (const collection of MADE) {
    const found = made(collection);
    assert.deepEqual(
      found?.metadata["ownerReferences"],
      [{ apiVersion: "gateway.networking.k8s.io/v1", kind: "Gateway", name: "way", uid: "uid-way" }],
      collection,
    );
    assert.equal((there(found).metadata["labels"] as Record<string, string>)["team"], "a", collection);
    assert.deepEqual(found?.metadata["annotations"], { note: "b" }, collection);
  }
  const roots = server.get(`${CORE}/configmaps`, "shop", "trackbed-root");
  assert.deepEqual(roots?.["data"], { "root-cert.pem": "ROOTS" });
  assert.deepEqual(
    (there(roots).metadata["ownerReferences"] as { uid: string }[]).map(({ uid }) => uid),
    ["uid-way"],
  );
  const spec = (made(DEPLOYMENTS)?.["spec"] ?? {}) as {
    replicas?: number;
    template: { metadata: { labels: Record<string, string> }; spec: Record<string, unknown> & { containers: Record<string, unknown>[] } };
  };
  assert.equal(spec.replicas, undefined, "an autoscaler may say it");
  assert.deepEqual(
    [
      spec.template.metadata.labels["gateway.networking.k8s.io/gateway-name"],
      spec.template.metadata.labels["gateway.networking.k8s.io/gateway-class-name"],
    ],
    ["way", "trackbed-waypoint"],
  );
  const [container] = spec.template.spec.containers;
  assert.deepEqual([container?.["image"], container?.["imagePullPolicy"]], ["registry/trackbed:1", "Always"]);
  assert.deepEqual(spec.template.spec["imagePullSecrets"], [{ name: "pull" }]);
  assert.ok((there(container)["args"] as string[]).includes("--control=trackbed-control.trackbed-system.svc:15012"));
  assert.ok(server.get(CLASSES, "", "trackbed-waypoint") !== undefined);
});

test("a waypoint's pod is confined: no root, no capability, no token of the API, nothing of the host", async (t) => {
  const { provision, made } = await cluster(t);
  provision.changed([waypointOf(gatewayOf("way"))]);
  await provision.idle();
  const { spec } = (there(made(DEPLOYMENTS))["spec"] as { template: { spec: Record<string, unknown> } }).template;
  assert.deepEqual(spec["securityContext"], {
    runAsNonRoot: true,
    runAsUser: 65532,
    runAsGroup: 65532,
    seccompProfile: { type: "RuntimeDefault" },
  });
  assert.equal(spec["automountServiceAccountToken"], false);
  for (const key of ["hostNetwork", "hostPID", "hostIPC"]) assert.equal(spec[key], undefined, key);
  assert.deepEqual((spec["containers"] as Record<string, unknown>[])[0]?.["securityContext"], {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"] },
  });
  const volumes = spec["volumes"] as Record<string, unknown>[];
  assert.deepEqual(
    volumes.map(({ name, ...kind }) => Object.keys(kind).join()),
    ["configMap", "projected"],
  );
});

test("what somebody changes or deletes is put back", async (t) => {
  const { server, provision, made } = await cluster(t, { sweepMilliseconds: 20 });
  provision.changed([waypointOf(gatewayOf("way"))]);
  await provision.idle();
  const deployment = made(DEPLOYMENTS);
  assert.ok(deployment !== undefined);
  server.put(DEPLOYMENTS, { ...deployment, spec: { ...(deployment["spec"] as object), strategy: { type: "Recreate" } } });
  server.delete(BUDGETS, "shop", "way");
  await until("the strategy is as planned", () =>
    JSON.stringify(made(DEPLOYMENTS)?.["spec"]).includes('"strategy":{"type":"RollingUpdate"'),
  );
  await until("the budget is back", () => made(BUDGETS) !== undefined);
});

test("a Service that is changed or deleted, and pods that go, are seen to at once", async (t) => {
  const { server, provision, made } = await cluster(t);
  provision.changed([waypointOf(gatewayOf("way"))]);
  await provision.idle();
  server.delete(`${CORE}/services`, "shop", "way");
  provision.noticed({ put: [], remove: ["Service/shop/way"] });
  await until("the Service is back", () => made(`${CORE}/services`) !== undefined);
  await provision.idle();
  server.delete(DEPLOYMENTS, "shop", "way");
  provision.noticed({ put: [], remove: ["Pod/shop/other-5d4f-x2x"] });
  await provision.idle();
  assert.equal(made(DEPLOYMENTS), undefined, "somebody else's pod");
  provision.noticed({ put: [], remove: ["Pod/shop/way-5d4f-x2x"] });
  await until("the Deployment is back", () => made(DEPLOYMENTS) !== undefined);
});

test("an object of that name that somebody else made is not touched, and the problem is told until it is gone", async (t) => {
  const { server, provision, problems, made } = await cluster(t);
  server.put(`${CORE}/services`, { metadata: { name: "way", namespace: "shop" }, spec: { selector: { app: "mine" } } });
  provision.changed([waypointOf(gatewayOf("way"))]);
  await until("the problem", () => problems.get("shop/way")?.includes("Service shop/way is there already") === true);
  assert.deepEqual(made(`${CORE}/services`)?.["spec"], { selector: { app: "mine" } });
  assert.equal(made(DEPLOYMENTS), undefined, "nothing of the plan was begun");
  server.delete(`${CORE}/services`, "shop", "way");
  await until("it is made", () => problems.get("shop/way") === null);
  assert.ok(made(DEPLOYMENTS) !== undefined);
});

test("two Gateways of a namespace share the roots; somebody else's ConfigMap of that name is not touched", async (t) => {
  const { server, provision, problems } = await cluster(t);
  server.put(`${CORE}/configmaps`, { metadata: { name: "trackbed-root", namespace: "shop" }, data: { "root-cert.pem": "MINE" } });
  provision.changed([waypointOf(gatewayOf("way"))]);
  await until("the problem", () => problems.get("shop/way")?.includes("ConfigMap shop/trackbed-root is there already") === true);
  assert.deepEqual(server.get(`${CORE}/configmaps`, "shop", "trackbed-root")?.["data"], { "root-cert.pem": "MINE" });
  server.delete(`${CORE}/configmaps`, "shop", "trackbed-root");
  await until("it is made", () => problems.get("shop/way") === null);
  provision.changed([waypointOf(gatewayOf("way")), waypointOf(gatewayOf("other"))]);
  await provision.idle();
  const roots = there(server.get(`${CORE}/configmaps`, "shop", "trackbed-root"));
  assert.deepEqual(
    (roots.metadata["ownerReferences"] as { uid: string }[]).map(({ uid }) => uid),
    ["uid-way", "uid-other"],
  );
});

test("replicas and resources come from the ConfigMap that the Gateway names; what cannot be used is told and changes nothing", async (t) => {
  const { server, provision, problems, made } = await cluster(t, { sweepMilliseconds: 20 });
  const parametersRef = { group: "", kind: "ConfigMap", name: "size" };
  const gateway = gatewayOf("way", { infrastructure: { labels: {}, annotations: {}, parametersRef } });
  const size = (data: Record<string, string>) => server.put(`${CORE}/configmaps`, { metadata: { name: "size", namespace: "shop" }, data });
  provision.changed([waypointOf(gateway)]);
  await until("its absence is told", () => problems.get("shop/way")?.includes("ConfigMap shop/size") === true);
  assert.doesNotMatch(JSON.stringify(made(DEPLOYMENTS) ?? {}), /--traces/);
  size({ replicas: "3", resources: "requests: {cpu: 200m}", traces: "http://collector.ops.svc:4317", traceShare: "0.5" });
  await until("three replicas", () => (made(DEPLOYMENTS)?.["spec"] as { replicas?: number } | undefined)?.replicas === 3);
  assert.match(JSON.stringify(made(DEPLOYMENTS)), /"resources":\{"requests":\{"cpu":"200m"\}\}/);
  assert.match(JSON.stringify(made(DEPLOYMENTS)), /"--traces=http:\/\/collector\.ops\.svc:4317","--trace-share=0\.5"/);
  size({ replicas: "3", traces: "https://collector.ops.svc:4317", traceRoots: "collector-ca" });
  await until("a collector over TLS", () => JSON.stringify(made(DEPLOYMENTS)).includes('"--traces=https://collector.ops.svc:4317"'));
  const spec = JSON.stringify(made(DEPLOYMENTS));
  assert.match(spec, /"--trace-roots=\/etc\/trackbed\/traces\/ca\.crt"/);
  assert.match(spec, /"configMap":\{"name":"collector-ca","optional":true,"items":\[\{"key":"ca\.crt","path":"ca\.crt"\}\]\}/);
  assert.match(spec, /\{"name":"trace-roots","mountPath":"\/etc\/trackbed\/traces","readOnly":true\}/);
  for (const wrong of [
    { replicas: "many" },
    { replicas: "0" },
    { replicas: "1000" },
    { resources: "{" },
    { resources: "cpu: 1" },
    { traces: "collector:4317" },
    { traces: "http://collector" },
    { traceShare: "0.5" },
    { traces: "http://collector:4317", traceRoots: "collector-ca" },
    { traceRoots: "collector-ca" },
    { traceRoots: "Not A Name", traces: "https://collector:4317" },
    { image: "x" },
  ]) {
    size(wrong as unknown as Record<string, string>);
    const [key = ""] = Object.keys(wrong);
    await until(`the problem of ${JSON.stringify(wrong)}`, () => problems.get("shop/way")?.includes(key) === true);
    assert.equal((there(made(DEPLOYMENTS))["spec"] as { replicas?: number }).replicas, 3);
    size({ replicas: "3" });
    await until("it is well again", () => problems.get("shop/way") === null);
  }
});

test("parameters of the class hold for Gateways that name none of their own", async (t) => {
  const { server, provision, made } = await cluster(t, { sweepMilliseconds: 20 });
  const parametersRef = { group: "", kind: "ConfigMap", name: "all", namespace: "platform" };
  const spec = { controllerName: "trackbed.dev/waypoint", parametersRef };
  server.put(CLASSES, { metadata: { name: "trackbed-waypoint" }, spec });
  server.put(`${CORE}/configmaps`, { metadata: { name: "all", namespace: "platform" }, data: { replicas: "2" } });
  server.put(`${CORE}/configmaps`, { metadata: { name: "size", namespace: "shop" }, data: { replicas: "5" } });
  const own = { labels: {}, annotations: {}, parametersRef: { group: "", kind: "ConfigMap", name: "size" } };
  provision.changed([waypointOf(gatewayOf("way")), waypointOf(gatewayOf("big", { infrastructure: own }))]);
  const replicas = (name: string) => (made(DEPLOYMENTS, name)?.["spec"] as { replicas?: number } | undefined)?.replicas;
  await until("both are made", () => replicas("way") === 2 && replicas("big") === 5);
  await until("the class keeps what others wrote", () =>
    JSON.stringify(server.get(CLASSES, "", "trackbed-waypoint")?.["spec"]).includes('"namespace":"platform"'),
  );
});

test("the Gateway of an auto namespace is made, and goes when nothing needs it for a while", async (t) => {
  const { server, provision } = await cluster(t, { idleMilliseconds: 30 });
  provision.changed([waypointOf(null, { services: ["shop/web"] })]);
  await until("the Gateway", () => server.get(GATEWAYS, "shop", "waypoint") !== undefined);
  const stored = server.get(GATEWAYS, "shop", "waypoint");
  const labels = stored?.metadata["labels"] as Record<string, string>;
  const gateway = gatewayOf("waypoint", { metadata: meta("shop", "waypoint", { uid: stored?.metadata.uid ?? "", labels }) });
  provision.changed([waypointOf(gateway, { services: ["shop/web"] })]);
  await provision.idle();
  assert.ok(server.get(DEPLOYMENTS, "shop", "waypoint") !== undefined);
  provision.changed([waypointOf(gateway)]);
  await until("the Gateway goes", () => server.get(GATEWAYS, "shop", "waypoint") === undefined);
});

test("a Gateway that somebody wrote stays, whether or not anything uses it", async (t) => {
  const { server, provision, made } = await cluster(t, { idleMilliseconds: 1, sweepMilliseconds: 10 });
  const written = gatewayOf("waypoint");
  server.put(GATEWAYS, { metadata: { name: "waypoint", namespace: "shop", uid: "uid-waypoint" } });
  provision.changed([waypointOf(written)]);
  await until("it is made", () => made(DEPLOYMENTS, "waypoint") !== undefined);
  const sweeps = () => server.requests.filter(({ method, collection }) => method === "PATCH" && collection === DEPLOYMENTS).length;
  await until("three sweeps", () => sweeps() > 3);
  assert.ok(server.get(GATEWAYS, "shop", "waypoint") !== undefined);
});

test("kube-system and the mesh's own namespace get no waypoint", async (t) => {
  const { server, provision, problems } = await cluster(t);
  const inNamespace = (namespace: string) => waypointOf(gatewayOf("way", { metadata: meta(namespace, "way") }));
  provision.changed([inNamespace("kube-system"), inNamespace("trackbed-system")]);
  await until("both are told", () => problems.has("kube-system/way") && problems.has("trackbed-system/way"));
  for (const problem of [problems.get("kube-system/way"), problems.get("trackbed-system/way")])
    assert.match(problem ?? "", /gets no waypoint/);
  assert.equal(server.all(DEPLOYMENTS).length, 0);
});

test("only the replica that holds the Lease writes, and it begins when it gets it", async (t) => {
  const { server, provision, lead, made } = await cluster(t, { leads: false });
  provision.changed([waypointOf(gatewayOf("way"))]);
  await provision.idle();
  assert.equal(server.requests.length, 0);
  lead();
  await until("it is made", () => made(DEPLOYMENTS) !== undefined);
});

test("a cluster without the Gateway API is left in peace", async (t) => {
  const { server, provision, problems } = await cluster(t, { sweepMilliseconds: 10 });
  server.unserve(CLASSES);
  server.unserve(GATEWAYS);
  await until("it looked", () => server.requests.length > 2);
  provision.changed([]);
  assert.equal(problems.size, 0);
});
