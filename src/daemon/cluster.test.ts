// Claims about the daemon's Kubernetes side as one: what it leaves for the CNI plugin, when, and what keeps it from being ready.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { pino } from "pino";
import { enrolment } from "#mesh/enrolment.ts";
import type { MeshObject, Namespace, ObjectKey, Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import type { HostRules } from "#redirect/host.ts";
import type { Api } from "#source/kubernetes/api.ts";
import type { Change, Source } from "#source/source.ts";
import { createCluster } from "./cluster.ts";
import { desiredPods } from "./desired.ts";
import type { Metrics } from "./metrics.ts";
import type { KubernetesOptions } from "./options.ts";
import { newRecord, type PodRecord } from "./pod.ts";
import type { Reconciler } from "./reconciler.ts";
import { specimen } from "./specimen.ts";

const DEADLINE_MS = 5000;
const OURS = "00-trackbed.conflist";

const space = (name: string, mesh: "enabled" | "disabled", annotations: Record<string, string> = {}): Namespace => ({
  kind: "Namespace",
  metadata: meta("", name, { labels: { "trackbed.dev/mesh": mesh }, annotations }),
});
const labelled = (namespace: string): Pod =>
  podOf(meta(namespace, "one", { uid: `${namespace}-one`, labels: { "trackbed.dev/mesh": "enabled" } }));
const change = (put: readonly MeshObject[]): Change => ({ reset: true, put, remove: [], faults: [], places: new Map<ObjectKey, never>() });

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const ended = Date.now() + DEADLINE_MS; !holds(); await new Promise((resolve) => setTimeout(resolve, 10)))
    if (Date.now() > ended) assert.fail(`never: ${what}`);
}

async function node(t: TestContext, more: Partial<KubernetesOptions> = {}) {
  const root = mkdtempSync(join(tmpdir(), "trackbed-cluster-"));
  const at = (name: string): string => join(root, name);
  for (const directory of ["run", "bin", "conf"]) mkdirSync(at(directory));
  writeFileSync(at("plugin"), "plugin");
  writeFileSync(at("conf/10-cluster.conflist"), JSON.stringify({ cniVersion: "1.0.0", name: "c", plugins: [{ type: "bridge" }] }));
  const options: KubernetesOptions = {
    ...{
      kubeconfig: null,
      cniPlugin: null,
      cniBin: at("bin"),
      cniConf: at("conf"),
      cniState: at("state"),
      leave: false,
      drainMilliseconds: 0,
    },
    ...more,
  };
  const api: Api = {
    server: "",
    call: () => Promise.reject(new Error("nobody asks in these tests")),
    open: () => Promise.reject(new Error("nobody asks in these tests")),
    close: async () => undefined,
  };
  const hostRules = { list: async () => null, apply: async () => "", remove: async () => undefined } as unknown as HostRules;
  let list: (pods: readonly MeshObject[]) => void = () => undefined;
  const listed: Source = async function* (stop) {
    while (!stop.aborted) {
      const pods = await new Promise<readonly MeshObject[]>((resolve) => {
        list = resolve;
        stop.addEventListener("abort", () => resolve([]), { once: true });
      });
      yield change(pods);
    }
  };
  const log = pino({ level: "silent" });
  const cluster = createCluster({
    options,
    api,
    helper: "",
    plugin: at("plugin"),
    hostRules,
    adopt: "none",
    run: at("run"),
    log,
    labelled: [listed],
  });
  const records = new Map<string, PodRecord>();
  const counts = { applied: 0, bypassed: 0 };
  const desired = desiredPods("a", () => "cluster.local", { quarters: cluster.quarters, decide: enrolment });
  await cluster.start({
    desired,
    pods: { records, promise: () => undefined } as unknown as Reconciler,
    metrics: { bypassed: (count: number) => (counts.bypassed = count), cni: () => undefined } as unknown as Metrics,
    apply: () => counts.applied++,
  });
  t.after(() => {
    cluster.stop();
    rmSync(root, { recursive: true });
  });
  return {
    cluster,
    counts,
    records,
    at,
    say: (...objects: readonly MeshObject[]) => {
      desired.update(change(objects));
      return cluster.followed();
    },
    list: (...pods: readonly MeshObject[]) => list(pods),
    decisions: (): unknown => {
      const path = at("state/namespaces.json");
      return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as { namespaces: unknown }).namespaces : null;
    },
  };
}

test("no decision is written before the cluster's labelled pods are known, and readiness says so", async (t) => {
  const { cluster, say, list, decisions } = await node(t);
  await say(space("shop", "enabled"), space("bank", "disabled"), space("park", "disabled"));
  assert.equal(decisions(), null, "bank would pass, with a labelled pod that nobody knows yet");
  assert.match(cluster.notReady().join(), /decision file: pods with a label of their own were not listed yet/);
  list(labelled("bank"));
  await until("it is written", () => decisions() !== null);
  assert.deepEqual(decisions(), { bank: true, park: false, shop: true });
  await until("nothing keeps it from being ready", () => cluster.notReady().length === 0);
  list();
  await until(
    "bank has no labelled pod any more",
    () => JSON.stringify(decisions()) === JSON.stringify({ bank: false, park: false, shop: true }),
  );
});

test("plugin and configuration are on the node, with the places where the plugin finds us", async (t) => {
  const { at } = await node(t);
  await until("they are there", () => existsSync(at(`conf/${OURS}`)) && existsSync(at("bin/trackbed-cni")));
  const { plugins } = JSON.parse(readFileSync(at(`conf/${OURS}`), "utf8")) as { plugins: unknown[] };
  assert.deepEqual(plugins.at(-1), { type: "trackbed-cni", socket: at("run/cni.sock"), decisions: at("state/namespaces.json") });
});

test("a bypass is over by our own clock, without a word from the API server", async (t) => {
  const { counts, say } = await node(t);
  await say(space("shop", "enabled", { "trackbed.dev/bypass-until": new Date(Date.now() + 300).toISOString() }));
  assert.equal(counts.bypassed, 1);
  await until("the pods are looked at again", () => counts.applied > 0 && counts.bypassed === 0);
});

test("who leaves takes configuration and decisions away, enrols nobody, and is ready when no pod has a rule left", async (t) => {
  const { at, cluster, records, say, decisions } = await node(t, { leave: true });
  await say(space("shop", "enabled"));
  assert.equal(existsSync(at(`conf/${OURS}`)), false);
  assert.equal(decisions(), null);
  assert.equal(cluster.decide(space("shop", "enabled"), podOf(meta("shop", "web"))).enrolled, false);
  const record = newRecord(specimen("web"), null);
  records.set("web", { ...record, observed: { ...record.observed, namespace: { bootId: "b", cookie: 1n }, rules: "holder" } });
  assert.match(cluster.notReady().join(), /the host still has rules for kubelet probes/, "until it was looked at");
  cluster.settled();
  await until("the host was looked at", () => cluster.notReady().length === 1);
  assert.deepEqual(cluster.notReady(), ["pod shop/web still has rules of the mesh"]);
  records.clear();
  assert.deepEqual(cluster.notReady(), []);
});
