// Install and uninstall against an API server made of a map, whose controllers do at once what they are told, or not at all.
import assert from "node:assert/strict";
import { test } from "node:test";
import { baseFiles, crdFiles } from "#install/files.ts";
import type { KindName } from "#install/kinds.ts";
import { cleaning, leaving } from "#install/leave.ts";
import { type Manifest, objectsOf } from "#install/render.ts";
import { untilOf } from "./bypass.ts";
import type { Applied, Cluster, Held } from "./client.ts";
import { enteredOf, leftOf } from "./enrol.ts";
import { install } from "./install.ts";
import { setByUs, uninstall, valuesOf } from "./uninstall.ts";
import { parseDuration } from "./wait.ts";

const manifests = objectsOf(baseFiles());
const crds = objectsOf(crdFiles());
const MADE = "app.kubernetes.io/managed-by=trackbed";
const silent = (): void => undefined;
const NOT_LONG_MS = 1500;
const id = (kind: string, name: string, namespace = ""): string => `${kind} ${namespace}${namespace === "" ? "" : "/"}${name}`;

type Options = {
  readonly held?: readonly Manifest[] /** DaemonSets and Deployments that never become ready. */;
  readonly stuck?: readonly string[];
};

function fakeCluster({
  held = [],
  stuck = [],
}: Options = {}): Cluster & { readonly done: string[]; readonly objects: Map<string, Manifest> } {
  const objects = new Map(held.map((object) => [id(object.kind, object.metadata.name, object.metadata.namespace), object]));
  const done: string[] = [];
  const status = (name: string) => {
    const ready = stuck.includes(name) ? 0 : 2;
    return {
      desiredNumberScheduled: 2,
      currentNumberScheduled: 2,
      updatedNumberScheduled: 2,
      numberReady: ready,
      replicas: 2,
      updatedReplicas: 2,
      readyReplicas: ready,
      availableReplicas: ready,
    };
  };
  const seen = (object: Manifest | undefined): never =>
    (object === undefined ? null : { ...object, status: status(object.metadata.name) }) as never;
  return {
    done,
    objects,
    server: "https://fake",
    get: async (kind, name, namespace) => seen(objects.get(id(kind, name, namespace))),
    list: async (kind, where = {}) =>
      [...objects.values()]
        .filter((object) => object.kind === kind && (where.namespace === undefined || object.metadata.namespace === where.namespace))
        .filter(({ metadata }) => where.labelSelector !== MADE || metadata.labels?.["app.kubernetes.io/managed-by"] === "trackbed")
        .filter((object) => where.labelSelector !== "trackbed.dev/mesh" || object.metadata.labels?.["trackbed.dev/mesh"] !== undefined)
        .map(seen),
    apply: async (manifest): Promise<Applied> => {
      const key = id(manifest.kind, manifest.metadata.name, manifest.metadata.namespace);
      const there = objects.has(key);
      objects.set(key, manifest);
      done.push(`apply ${key}`);
      return there ? "changed" : "created";
    },
    merge: async (kind, name) => void done.push(`merge ${id(kind, name)}`),
    removeCondition: async (namespace, pod) => void done.push(`removeCondition ${namespace}/${pod}`),
    remove: async (kind: KindName, name, namespace) => {
      done.push(`remove ${id(kind, name, namespace)}`);
      for (const [key, object] of objects) if (kind === "Namespace" && object.metadata.namespace === name) objects.delete(key);
      return objects.delete(id(kind, name, namespace));
    },
    raw: async () => ({}),
    close: async () => undefined,
  };
}

test("install puts in CRDs and rights first, waits for control, and only then starts anything on the nodes", async () => {
  const cluster = fakeCluster();
  const said: string[] = [];
  const changes = await install(cluster, manifests, crds, NOT_LONG_MS, (line) => said.push(line));
  const at = (what: string): number => cluster.done.indexOf(`apply ${what}`);
  assert.ok(at("CustomResourceDefinition authorizationpolicies.security.istio.io") < at("Namespace trackbed-system"));
  assert.ok(at("Deployment trackbed-system/trackbed-control") < at("DaemonSet trackbed-system/trackbed-daemon"));
  assert.equal(changes.length, manifests.length + crds.length);
  assert.ok(said.indexOf("control 2 of 2 ready") < said.indexOf("DaemonSet trackbed-system/trackbed-engine created"));
});

test("install starts nothing on the nodes while control is not ready, and says so when time is up", async () => {
  const cluster = fakeCluster({ stuck: ["trackbed-control"] });
  await assert.rejects(install(cluster, manifests, crds, 0, silent), /not within 0 s: control 0 of 2 ready/);
  assert.ok(!cluster.done.some((line) => line.includes("DaemonSet")));
});

test("CRDs of another mesh are kept as they are, ours are brought to this version", async () => {
  const [first, second] = crds;
  assert.ok(first !== undefined && second !== undefined);
  const cluster = fakeCluster({ held: [{ ...first, metadata: { name: first.metadata.name, labels: { app: "istio" } } }, second] });
  const changes = await install(cluster, manifests, crds, NOT_LONG_MS, silent);
  assert.deepEqual(
    changes.slice(0, 2).map(({ result }) => result),
    ["kept", "changed"],
  );
});

test("uninstall lets every daemon leave before it deletes anything, engines included", async () => {
  const cluster = fakeCluster({ held: manifests });
  await uninstall(cluster, manifests, { drainSeconds: 5, timeoutMs: NOT_LONG_MS }, silent);
  const firstRemoval = cluster.done.findIndex((line) => line.startsWith("remove "));
  const left = cluster.done.indexOf("apply DaemonSet trackbed-system/trackbed-daemon");
  const cleaned = cluster.done.indexOf("apply DaemonSet trackbed-system/trackbed-clean");
  assert.ok(left >= 0 && left < firstRemoval && firstRemoval < cleaned);
  // Who has time to end keeps the namespace for half of that: nobody is left but the cleaner.
  const control = cluster.done.indexOf("remove Deployment trackbed-system/trackbed-control");
  assert.ok(firstRemoval <= control && control < cleaned);
  assert.equal(cluster.done.at(-1), "remove Namespace trackbed-system");
  assert.deepEqual([...cluster.objects.keys()], []);
});

test("uninstall takes the objects of waypoints along once control cannot put them back, and leaves Gateways that people wrote", async () => {
  const made = { "app.kubernetes.io/managed-by": "trackbed" };
  const object = (kind: string, name: string, labels = {}): Manifest => ({
    apiVersion: "v1",
    kind,
    metadata: { name, namespace: "shop", labels },
  });
  const gatewayClass: Manifest = { apiVersion: "v1", kind: "GatewayClass", metadata: { name: "trackbed-waypoint" } };
  const theirs = [object("Gateway", "way"), object("Deployment", "web")];
  const ours = [object("Gateway", "waypoint", made), object("Deployment", "waypoint", made), object("ConfigMap", "trackbed-root", made)];
  const cluster = fakeCluster({ held: [...manifests, ...theirs, ...ours, gatewayClass] });
  await uninstall(cluster, manifests, { drainSeconds: 5, timeoutMs: NOT_LONG_MS }, silent);
  assert.deepEqual([...cluster.objects.keys()], ["Gateway shop/way", "Deployment shop/web"]);
  assert.ok(cluster.done.indexOf("remove Namespace trackbed-system") < cluster.done.indexOf("remove Deployment shop/waypoint"));
});

test("when a node's daemon cannot leave, nothing is deleted and the way out is named", async () => {
  const cluster = fakeCluster({ held: manifests, stuck: ["trackbed-daemon"] });
  await assert.rejects(
    uninstall(cluster, manifests, { drainSeconds: 5, timeoutMs: 0 }, silent),
    /daemon 0 of 2 ready.*Nothing was deleted.*trackbed-cni rescue/,
  );
  assert.ok(!cluster.done.some((line) => line.startsWith("remove ")));
});

test("uninstall puts back what the daemons need to leave when everything was deleted by hand", async () => {
  const cluster = fakeCluster();
  await uninstall(cluster, manifests, { drainSeconds: 5, timeoutMs: NOT_LONG_MS }, silent);
  for (const needed of [
    "Namespace trackbed-system",
    "ServiceAccount trackbed-system/trackbed-daemon",
    "ClusterRole trackbed-daemon",
    "ClusterRoleBinding trackbed-daemon",
  ])
    assert.ok(cluster.done.includes(`apply ${needed}`), needed);
  assert.ok(!cluster.done.includes("apply Deployment trackbed-system/trackbed-control"), "leaving needs no control");
  assert.deepEqual([...cluster.objects.keys()], []);
});

type PodTemplate = {
  spec: {
    template: {
      spec: {
        initContainers: unknown[];
        containers: { args: string[] }[];
        volumes: { name: string; configMap?: { optional?: boolean }; hostPath?: { path: string } }[];
      };
    };
  };
};
const podOf = (object: Manifest | undefined) => (object as unknown as PodTemplate).spec.template.spec;

test("a leaving daemon waits neither for control's root nor for a check of its node", () => {
  const pod = podOf(leaving(manifests, 7).at(-1));
  assert.deepEqual(pod.containers[0]?.args.slice(-2), ["--leave", "--drain=7"]);
  assert.deepEqual(pod.initContainers, []);
  assert.equal(pod.volumes.find(({ name }) => name === "root")?.configMap?.optional, true);
});

test("the cleaner sees the parents of what it removes, and the plugins only where it may remove ours", () => {
  const paths = (withPlugin: boolean) => podOf(cleaning(manifests, withPlugin).at(-1)).volumes.map(({ hostPath }) => hostPath?.path);
  assert.deepEqual(paths(false), ["/run", "/var/lib", "/var/lib/kubelet"]);
  assert.deepEqual(paths(true), ["/run", "/var/lib", "/var/lib/kubelet", "/opt/cni/bin"]);
});

test("uninstall reads from the DaemonSet with what the installation was made", () => {
  const spec = {
    imagePullSecrets: [{ name: "s" }],
    containers: [{ name: "daemon", image: "registry.example:5000/mesh/trackbed:1.2" }],
    volumes: [{ name: "cni-bin", hostPath: { path: "/home/bin" } }],
  };
  assert.deepEqual(valuesOf({ spec: { template: { spec } } } as never), {
    registry: "registry.example:5000/mesh",
    tag: "1.2",
    imagePullSecrets: ["s"],
    cniBin: "/home/bin",
  });
  assert.deepEqual(valuesOf(null), {});
});

test("a label is ours to remove only when nobody else has set it", () => {
  const namespace = (...managers: string[]): Held =>
    ({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: {
        name: "n",
        managedFields: managers.map((manager) => ({ manager, fieldsV1: { "f:metadata": { "f:labels": { "f:trackbed.dev/mesh": {} } } } })),
      },
    }) as never;
  assert.equal(setByUs(namespace("trackbed")), true);
  assert.equal(setByUs(namespace("kubectl-label")), false);
  assert.equal(setByUs(namespace("trackbed", "argocd")), false);
  assert.equal(setByUs(namespace()), false);
});

test("enrol waits for the pods that are there, and says why one is not in", () => {
  const pod = (name: string, status?: string, more: object = {}) =>
    ({
      metadata: { name, ...more },
      status: { conditions: status === undefined ? [] : [{ type: "trackbed.dev/Captured", status, reason: "E_X", message: "because" }] },
    }) as never;
  const wanted = new Set(["a", "b", "gone"]);
  assert.deepEqual(enteredOf([pod("a", "True"), pod("b", "False"), pod("other")], wanted), {
    done: false,
    text: "1 of 2 pods are in the mesh",
    stuck: ["b: because (E_X)"],
  });
  assert.equal(enteredOf([pod("a", "True"), pod("b", undefined, { deletionTimestamp: "x" })], wanted).done, true);
  assert.equal(enteredOf([], wanted).done, true);
  assert.equal(leftOf([pod("a", "True"), pod("b")], new Set()).done, false);
  assert.equal(leftOf([pod("a", "True"), pod("b")], new Set(["a"])).done, true, "labelled by itself, it stays");
});

test("durations are read strictly, and a bypass has an end within a day", () => {
  assert.deepEqual(
    [parseDuration("90s"), parseDuration("1h30m"), parseDuration("30"), parseDuration("0s"), parseDuration("")],
    [90_000, 5_400_000, null, null, null],
  );
  const bypass = (length: string | undefined, end = false) =>
    untilOf({ namespace: "n", for: length, end }, Date.parse("2026-01-01T00:00:00Z"));
  assert.equal(bypass("30m"), "2026-01-01T00:30:00Z");
  assert.equal(bypass(undefined, true), null);
  for (const wrong of ["25h", "soon"]) assert.throws(() => bypass(wrong), /not a time up to 24h/);
  assert.throws(() => bypass("30m", true), /either --for/);
  assert.throws(() => bypass(undefined), /either --for/);
});
