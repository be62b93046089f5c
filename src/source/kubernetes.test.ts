import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { queryObjects, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { openAuthority } from "#ca/local.ts";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import { type ApiObject, type FakeApi, fakeApi } from "../../test/apiserver.ts";
import { createApi } from "./kubernetes/api.ts";
import { inClusterCredentials } from "./kubernetes/credentials.ts";
import { isApiFailure } from "./kubernetes/failure.ts";
import { createHoldings } from "./kubernetes/holdings.ts";
import { readObject } from "./kubernetes/read.ts";
import { REFLECTOR_TIMES } from "./kubernetes/reflector.ts";
import { controlResources, nodeResources, PODS } from "./kubernetes/resources.ts";
import { kubernetesSource } from "./kubernetes.ts";
import type { Change } from "./source.ts";

const DEADLINE_MILLISECONDS = 10_000;
const PODS_PATH = "/api/v1/pods";
const NAMESPACES_PATH = "/api/v1/namespaces";
const POLICIES_PATH = "/apis/security.istio.io/v1/authorizationpolicies";
const PEERS_PATH = "/apis/security.istio.io/v1/peerauthentications";
const TIMES = { ...REFLECTOR_TIMES, backoffMilliseconds: { first: 5, most: 50 }, absentMilliseconds: 20 };

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + DEADLINE_MILLISECONDS; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** As an API server sends it: all that the mesh does not read is there too. */
const pod = (
  name: string,
  more: { labels?: object; annotations?: object; spec?: object; status?: object; meta?: object } = {},
): ApiObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name,
    namespace: "shop",
    creationTimestamp: "2026-01-01T00:00:00Z",
    labels: { app: "web", "pod-template-hash": "5d4f8c7b9", ...more.labels },
    annotations: { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(500), ...more.annotations },
    ownerReferences: [
      { apiVersion: "apps/v1", kind: "ReplicaSet", name: "web-5d4f8c7b9", uid: "u", controller: true, blockOwnerDeletion: true },
    ],
    managedFields: [{ manager: "kubelet", operation: "Update", fieldsV1: { "f:status": { "f:conditions": {} } } }],
    ...more.meta,
  },
  spec: {
    nodeName: "node-a",
    serviceAccountName: "web",
    dnsPolicy: "ClusterFirst",
    volumes: [{ name: "token", projected: { sources: [] } }],
    containers: [
      {
        name: "main",
        image: "web:1",
        ports: [{ name: "http", containerPort: 8080, protocol: "TCP" }],
        readinessProbe: { httpGet: { path: "/", port: "http", scheme: "HTTP" }, timeoutSeconds: 1 },
        env: [{ name: "A", value: "y".repeat(200) }],
      },
    ],
    tolerations: [{ key: "node.kubernetes.io/not-ready", operator: "Exists" }],
    ...more.spec,
  },
  status: {
    phase: "Running",
    podIP: "10.0.0.1",
    podIPs: [{ ip: "10.0.0.1" }],
    hostIP: "192.0.2.1",
    conditions: [{ type: "Ready", status: "True", lastTransitionTime: "2026-01-01T00:00:00Z" }],
    containerStatuses: [{ name: "main", imageID: "z".repeat(100) }],
    ...more.status,
  },
});

const policy = (name: string, action: string, meta: object = {}): ApiObject => ({
  metadata: { name, namespace: "shop", ...meta },
  spec: { action, rules: [{ from: [{ source: { namespaces: ["bank"] } }] }] },
});

async function read(t: TestContext, prepare: (api: FakeApi) => void, resources = controlResources()) {
  const api = await fakeApi();
  api.serve(POLICIES_PATH);
  api.serve(PEERS_PATH);
  prepare(api);
  const stop = new AbortController();
  const changes: Change[] = [];
  const held = new Map<ObjectKey, MeshObject>();
  const running = (async () => {
    for await (const change of kubernetesSource({ api: createApi(api.credentials), resources, times: TIMES })(stop.signal)) {
      changes.push(change);
      if (change.reset) held.clear();
      for (const key of change.remove) held.delete(key);
      for (const object of change.put) held.set(keyOf(object), object);
    }
  })();
  t.after(async () => {
    stop.abort();
    await running;
    await api.close();
  });
  return { api, changes, held, faults: () => changes.at(-1)?.faults ?? [], stop, running };
}

test("the first batch is complete: it waits for every list, however late the last one comes", async (t) => {
  let open = false;
  const s = await read(t, (api) => {
    api.put(NAMESPACES_PATH, { metadata: { name: "shop" } });
    api.put(PODS_PATH, pod("web"));
    api.fault = ({ collection }) => (collection === POLICIES_PATH && !open ? { status: 500 } : null);
  });
  await until("the other lists", () => s.api.watches(PODS_PATH).length === 1 && s.api.watches(NAMESPACES_PATH).length === 1);
  await until("several attempts", () => s.api.requests.filter(({ collection }) => collection === POLICIES_PATH).length > 2);
  assert.equal(s.changes.length, 0);
  open = true;
  await until("the first batch", () => s.changes.length > 0);
  assert.deepEqual([s.changes[0]?.reset, [...s.held.keys()].sort()], [true, ["Namespace//shop", "Pod/shop/web"]]);
});

test("a pod of the API server becomes the same object as its document in a directory, with a server's defaults", async (t) => {
  const s = await read(t, (api) => {
    api.put(
      PODS_PATH,
      pod("web", { annotations: { "trackbed.dev/exclude-outbound-ports": "25", "sidecar.istio.io/status": "{…}", other: "no" } }),
    );
    api.put(PODS_PATH, pod("new", { status: { phase: undefined, podIP: undefined, podIPs: undefined, conditions: undefined } }));
    api.put(PODS_PATH, pod("going", { meta: { deletionTimestamp: "2026-01-01T00:00:00Z" } }));
    const captured = {
      type: "trackbed.dev/Captured",
      status: "False",
      reason: "E_CAPTURE_NETNS_GONE",
      message: "network namespace b/7: gone",
      lastTransitionTime: "2026-01-01T00:00:00Z",
    };
    api.put(PODS_PATH, pod("told", { status: { conditions: [{ type: "Ready", status: "False" }, captured] } }));
    api.put(PODS_PATH, pod("probed", { spec: { containers: [{ livenessProbe: { tcpSocket: { port: "nowhere" } } }] } }));
  });
  await until("read", () => s.held.size === 5);
  const web = s.held.get("Pod/shop/web");
  assert.ok(web?.kind === "Pod");
  const { metadata, ...rest } = web;
  assert.deepEqual(metadata.annotations, { "trackbed.dev/exclude-outbound-ports": "25", "sidecar.istio.io/status": "" });
  assert.deepEqual([metadata.uid, metadata.labels], ["uid-1", { app: "web", "pod-template-hash": "5d4f8c7b9" }]);
  assert.deepEqual(rest, {
    kind: "Pod",
    nodeName: "node-a",
    serviceAccountName: "web",
    hostNetwork: false,
    phase: "Running",
    ready: true,
    podIPs: ["10.0.0.1"],
    ports: [{ name: "http", port: 8080 }],
    probePorts: [8080],
    clusterSearch: true,
    dnsSearch: [],
    owner: { kind: "ReplicaSet", name: "web-5d4f8c7b9" },
    captured: null,
  });
  const get = (name: string) => {
    const found = s.held.get(`Pod/shop/${name}`);
    assert.ok(found?.kind === "Pod");
    return found;
  };
  assert.deepEqual([get("new").phase, get("new").ready, get("new").podIPs], ["Pending", false, []]);
  assert.equal(get("going").ready, false);
  assert.deepEqual(get("told").captured, {
    status: "False",
    reason: "E_CAPTURE_NETNS_GONE",
    message: "network namespace b/7: gone",
    since: "2026-01-01T00:00:00Z",
  });
  assert.deepEqual([get("told").ready, get("probed").probePorts], [false, []]);
  assert.deepEqual(s.faults(), []);
});

test("a change that says nothing to the mesh is no change", async (t) => {
  const s = await read(t, (api) => api.put(PODS_PATH, pod("web")));
  await until("read", () => s.changes.length === 1);
  for (let i = 0; i < 5; i++) s.api.put(PODS_PATH, pod("web", { annotations: { beat: String(i) } }));
  s.api.put(PODS_PATH, pod("web", { status: { podIPs: [{ ip: "10.0.0.2" }] } }));
  await until("the one that counts", () => s.changes.length > 1);
  assert.deepEqual([s.changes.length, s.changes[1]?.put.length, s.changes[1]?.reset], [2, 1, false]);
});

test("changes leave nothing behind: what waits for the next one is as much as before", async (t) => {
  const s = await read(t, (api) => api.put(PODS_PATH, pod("web")));
  const change = async (from: number, to: number): Promise<void> => {
    for (let i = from; i < to; i++) {
      s.api.put(PODS_PATH, pod("web", { status: { podIPs: [{ ip: `10.0.1.${i}` }] } }));
      await until(`change ${i}`, () => s.changes.length > i);
    }
  };
  const promises = (): number => Number(queryObjects(Promise));
  await until("the first batch", () => s.changes.length === 1);
  await change(1, 20);
  const before = promises();
  await change(20, 120);
  const more = promises() - before;
  assert.ok(more < 50, `${more} promises more after 100 changes`);
});

test("a policy that is not valid is a fault at its API path; its last valid version stays, a new one stands in closed", async (t) => {
  const s = await read(t, (api) => {
    api.put(POLICIES_PATH, policy("old", "ALLOW"));
    api.put(POLICIES_PATH, policy("never", "ALLOU"));
  });
  await until("read", () => s.held.size === 2);
  const action = (name: string) => {
    const found = s.held.get(`AuthorizationPolicy/shop/${name}`);
    assert.ok(found?.kind === "AuthorizationPolicy");
    return [found.action, found.unenforceable.length > 0];
  };
  assert.deepEqual(
    [action("old"), action("never")],
    [
      ["ALLOW", false],
      ["DENY", true],
    ],
  );
  const [fault] = s.faults();
  assert.deepEqual(
    [fault?.code, fault?.key, fault?.file, fault?.field],
    [
      "E_SOURCE_INVALID",
      "AuthorizationPolicy/shop/never",
      "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/never",
      "spec.action",
    ],
  );
  assert.deepEqual(s.changes[0]?.places.get("AuthorizationPolicy/shop/old"), {
    file: "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/old",
    line: 0,
  });
  s.api.put(POLICIES_PATH, policy("old", "ALLOU"));
  await until("the second fault", () => s.faults().length === 2);
  assert.deepEqual(action("old"), ["ALLOW", false]);
  s.api.put(POLICIES_PATH, policy("old", "ALLOU", { uid: "another-object" }));
  await until("nothing is left of the object before", () => action("old")[0] === "DENY");
  s.api.delete(POLICIES_PATH, "shop", "never");
  s.api.put(POLICIES_PATH, policy("old", "DENY", { uid: "another-object" }));
  await until("mended", () => s.faults().length === 0);
  assert.deepEqual(action("old"), ["DENY", false]);
});

test("a list after a lost watch puts only what changed, and removes what is gone", async (t) => {
  const s = await read(t, (api) => {
    for (const name of ["a", "b", "c"]) api.put(PODS_PATH, pod(name));
  });
  await until("read and watched", () => s.changes.length === 1 && s.api.watches(PODS_PATH).length === 1);
  const watch = s.api.watches(PODS_PATH)[0];
  s.api.fault = ({ query, collection }) => (query.get("watch") === "1" && collection === PODS_PATH ? { status: 500 } : null);
  watch?.end();
  s.api.delete(PODS_PATH, "shop", "a");
  s.api.put(PODS_PATH, pod("b", { status: { phase: "Failed" } }));
  s.api.compact();
  s.api.fault = () => null;
  await until("the difference", () => s.changes.length > 1);
  const { put, remove } = s.changes[1] ?? { put: [], remove: [] };
  assert.deepEqual([put.map(keyOf), remove], [["Pod/shop/b"], ["Pod/shop/a"]]);
});

test("a cluster without the policy kinds is a mesh without policies", async (t) => {
  const s = await read(t, (api) => {
    api.unserve(POLICIES_PATH);
    api.unserve(PEERS_PATH);
    api.serve("/apis/apiextensions.k8s.io/v1/customresourcedefinitions");
    api.put(PODS_PATH, pod("web"));
  });
  await until("read", () => s.changes.length === 1);
  s.api.put(POLICIES_PATH, policy("p", "DENY"));
  await until("the policy, once its kind is there", () => s.held.has("AuthorizationPolicy/shop/p"));
});

test("of the endpoints only those are asked for that no controller made of a selector", async (t) => {
  const path = "/apis/discovery.k8s.io/v1/endpointslices";
  const s = await read(t, (api) => {
    const labels = { "kubernetes.io/service-name": "kubernetes" };
    api.put(path, {
      metadata: { name: "kubernetes", namespace: "default", labels },
      addressType: "IPv4",
      endpoints: [{ addresses: ["192.0.2.1"] }],
      ports: [{ name: "https", port: 6443, protocol: "TCP" }],
    });
  });
  await until("read", () => s.held.size === 1);
  const found = s.held.get("EndpointSlice/default/kubernetes");
  assert.ok(found?.kind === "EndpointSlice");
  assert.deepEqual(
    [found.service, found.endpoints[0]?.addresses, found.ports],
    ["kubernetes", ["192.0.2.1"], [{ name: "https", port: 6443 }]],
  );
  const asked = s.api.requests.filter(({ collection }) => collection === path).map(({ query }) => query.get("labelSelector"));
  assert.deepEqual([...new Set(asked)], ["endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"]);
});

test("a node's daemon asks for its own pods and for nothing but namespaces besides", async (t) => {
  const s = await read(
    t,
    (api) => {
      api.put(NAMESPACES_PATH, {
        metadata: { name: "shop", annotations: { "trackbed.dev/dns-capture": "disabled", big: "x".repeat(1000) } },
      });
      api.put(PODS_PATH, pod("mine"));
      api.put(PODS_PATH, pod("other", { spec: { nodeName: "node-b" } }));
    },
    nodeResources("node-a"),
  );
  await until("read", () => s.changes.length === 1);
  assert.deepEqual([...s.held.keys()].sort(), ["Namespace//shop", "Pod/shop/mine"]);
  assert.deepEqual(s.held.get("Namespace//shop")?.metadata.annotations, { "trackbed.dev/dns-capture": "disabled" });
  assert.deepEqual(new Set(s.api.requests.map(({ collection }) => collection)), new Set([PODS_PATH, NAMESPACES_PATH]));
  s.api.put(PODS_PATH, pod("mine", { spec: { nodeName: "node-a" }, labels: { "trackbed.dev/mesh": "disabled" } }));
  await until("the label", () => s.held.get("Pod/shop/mine")?.metadata.labels["trackbed.dev/mesh"] === "disabled");
});

test("one object is read past every cache; absent is null, and a server that does not answer is an error", async (t) => {
  const api = await fakeApi();
  t.after(() => api.close());
  api.put(PODS_PATH, pod("web"));
  const client = createApi(api.credentials, { answerMilliseconds: 100 });
  const found = await readObject(client, PODS, "shop", "web");
  assert.equal(found?.object?.kind === "Pod" && found.object.serviceAccountName, "web");
  assert.equal(await readObject(client, PODS, "shop", "none"), null);
  api.fault = () => "silence";
  await assert.rejects(readObject(client, PODS, "shop", "web"), (error) => isApiFailure(error) && error.code === "E_API_UNREACHABLE");
  api.fault = () => ({ status: 200, body: "<html>a proxy</html>" });
  await assert.rejects(
    readObject(client, PODS, "shop", "web"),
    (error) => isApiFailure(error) && error.path === "/api/v1/namespaces/shop/pods/web",
  );
});

test("in a pod, the mounted token is used, a replaced one is found, and only the mounted CA is believed", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "mount-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const authority = openAuthority(join(dir, "ca"));
  const { key, chain } = authority.serverCertificate({ names: [], addresses: ["127.0.0.1"] });
  const api = await fakeApi({ key, cert: chain });
  const { hostname, port } = new URL(api.url);
  writeFileSync(join(dir, "ca.crt"), authority.roots());
  writeFileSync(join(dir, "token"), "first\n");
  const environment = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
  const client = createApi(inClusterCredentials({ mount: dir, environment }));
  t.after(async () => {
    await client.close();
    await api.close();
  });
  const tokens = () => api.requests.map(({ headers }) => headers.authorization);
  await client.call({ method: "GET", path: "/api/v1/pods" });
  writeFileSync(join(dir, "token"), "second");
  api.fault = ({ headers }) => (headers.authorization === "Bearer second" ? null : { status: 401 });
  await assert.rejects(client.call({ method: "GET", path: "/api/v1/pods" }), /HTTP 401/);
  await client.call({ method: "GET", path: "/api/v1/pods" });
  assert.deepEqual(tokens(), ["Bearer first", "Bearer first", "Bearer second"]);

  writeFileSync(join(dir, "ca.crt"), openAuthority(join(dir, "other")).roots());
  const distrustful = createApi(inClusterCredentials({ mount: dir, environment }));
  t.after(() => distrustful.close());
  await assert.rejects(distrustful.call({ method: "GET", path: "/api/v1/pods" }), (error) => isApiFailure(error) && error.status === 0);
  writeFileSync(join(dir, "ca.crt"), authority.roots());
  await distrustful.call({ method: "GET", path: "/api/v1/pods" });
  assert.throws(() => inClusterCredentials({ mount: dir, environment: {} }), /not a pod/);
});

test("ten thousand pods take less than 20 MB of heap", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const resource = PODS;
  const holdings = createHoldings([resource]);
  collect();
  const before = process.memoryUsage().heapUsed;
  const items = Array.from({ length: 10_000 }, (_, i) => {
    const one = pod(`web-5d4f8c7b9-${i.toString(36).padStart(5, "x")}`, {
      labels: { app: `app-${i % 500}`, "app.kubernetes.io/name": `app-${i % 500}`, "app.kubernetes.io/part-of": "shop", tier: "front" },
      annotations: { "prometheus.io/scrape": "true", "cni.projectcalico.org/podIP": `10.0.${i >> 8}.${i & 255}/32` },
      spec: { nodeName: `node-${i % 100}`, serviceAccountName: `app-${i % 500}` },
      status: { podIPs: [{ ip: `10.0.${i >> 8}.${i & 255}` }, { ip: `fd00::${i.toString(16)}` }] },
      meta: { uid: crypto.randomUUID(), resourceVersion: String(1_000_000 + i), namespace: `ns-${i % 50}` },
    });
    // As it arrives: parsed from text, so that no string is shared that would not be.
    return holdings.read(resource, JSON.parse(JSON.stringify(one)));
  });
  holdings.apply(resource, { kind: "listed", items });
  let change = holdings.take();
  assert.equal(change?.put.length, 10_000);
  items.length = 0;
  change = null;
  collect();
  const megabytes = (process.memoryUsage().heapUsed - before) / 2 ** 20;
  assert.ok(megabytes < 20, `${megabytes.toFixed(1)} MB`);
  assert.ok(holdings.take() === null);
  console.log(`# 10,000 pods: ${megabytes.toFixed(1)} MB of heap`);
});
