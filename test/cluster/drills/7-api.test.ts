// A real API server does what list, watch, keys, leadership and status build upon, and what they do when it restarts under them.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { PodPhase, type PodReport } from "#contract/gen/control_pb.ts";
import { keyOf, type MeshObject, type ObjectKey, type Pod } from "#mesh/objects.ts";
import { type Api, connectApi } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { readObject } from "#source/kubernetes/read.ts";
import { REFLECTOR_TIMES } from "#source/kubernetes/reflector.ts";
import { controlResources, nodeResources, PODS, type Resource } from "#source/kubernetes/resources.ts";
import { kubernetesSource } from "#source/kubernetes.ts";
import { openSecretAuthority } from "../../../src/control/kubernetes/keys.ts";
import { holdLease } from "../../../src/control/kubernetes/lease.ts";
import { createPodStatus } from "../../../src/control/kubernetes/pod-status.ts";
import { ACCEPTED, createPolicyStatus } from "../../../src/control/kubernetes/policy-status.ts";
import { createReviews } from "../../../src/control/kubernetes/review.ts";
import { publishRoots } from "../../../src/control/kubernetes/roots.ts";
import { createView } from "../../../src/control/view.ts";
import { type Cluster, cluster, waitFor } from "../cluster.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;

/** A source and what a consumer of it holds, until `end` or, where a test failed before that, until `over`: a watch keeps the process alive. */
function follow(api: Api, resources: readonly Resource[], over: AbortSignal) {
  const ended = new AbortController();
  const stop = AbortSignal.any([ended.signal, over]);
  const view = createView("cluster.local");
  const held = new Map<ObjectKey, MeshObject>();
  const causes: string[] = [];
  const removed: ObjectKey[] = [];
  const listeners: ((change: { put: readonly MeshObject[] }) => void)[] = [];
  let batches = 0;
  const running = (async () => {
    const source = kubernetesSource({
      api,
      resources,
      onRestart: (path, cause) => causes.push(`${path} ${cause}`),
      times: { ...REFLECTOR_TIMES, pageSize: 50, absentMilliseconds: 500 },
    });
    for await (const change of source(stop)) {
      batches++;
      view.apply(change);
      for (const key of change.remove) held.delete(key);
      for (const object of change.put) held.set(keyOf(object), object);
      removed.push(...change.remove);
      for (const listener of listeners) listener(change);
    }
  })();
  const end = async () => {
    ended.abort();
    await running;
  };
  return { view, held, causes, removed, listeners, batches: () => batches, stop, end };
}

describe("a real API server", { concurrency: false }, () => {
  const namespace = `api-${randomUUID().slice(0, 8)}`;
  let c: Cluster;
  let api: Api;
  let all: ReturnType<typeof follow>;
  const over = new AbortController();
  const pod = (name: string): Pod | undefined => all.held.get(`Pod/${namespace}/${name}`) as Pod | undefined;
  const report = (of: Pod, phase: PodPhase, more: Partial<PodReport> = {}): PodReport =>
    ({ ...of.metadata, phase, netnsCookie: 7n, code: "", reason: "", ...more }) as unknown as PodReport;
  before(async () => {
    c = await cluster();
    api = await connectApi(c.settings.kubeconfig);
    await c.kubectl("create", "namespace", namespace);
    all = follow(api, controlResources(), over.signal);
  });
  after(async () => {
    over.abort();
    await all?.end();
    await api?.close();
    await c.kubectl("delete", "namespace", namespace, "--wait=false");
  });

  test("everything is listed, in pages, and each change comes by the watch", async () => {
    const pods = Array.from({ length: 120 }, (_, i) => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: `waiting-${i}`, namespace, labels: { app: "waiting" } },
      spec: { nodeSelector: { nowhere: "x" }, containers: [{ name: "main", image: "none" }] },
    }));
    await c.kubectlInput(JSON.stringify({ apiVersion: "v1", kind: "List", items: pods }), "create", "-f", "-");
    await waitFor("all pods", () => pods.every(({ metadata }) => pod(metadata.name) !== undefined));
    await c.kubectl("-n", namespace, "label", "pod", "waiting-0", "trackbed.dev/mesh=disabled");
    await waitFor("the label", () => pod("waiting-0")?.metadata.labels["trackbed.dev/mesh"] === "disabled");
    const second = follow(api, controlResources(), over.signal);
    await waitFor("a second look is the same", () => second.batches() > 0);
    assert.deepEqual(new Set(second.held.keys()), new Set(all.held.keys()));
    await second.end();
    await c.kubectl("-n", namespace, "delete", "pod", "waiting-1", "--now");
    await waitFor("the deletion", () => pod("waiting-1") === undefined);
    const found = await readObject(api, PODS, namespace, "waiting-0");
    assert.deepEqual(found?.object, pod("waiting-0"));
    assert.deepEqual([pod("waiting-0")?.phase, pod("waiting-0")?.ready, pod("waiting-0")?.podIPs], ["Pending", false, []]);
    assert.equal(await readObject(api, PODS, namespace, "waiting-1"), null);
  });

  test("a version that was compacted away is 410, as the reflector takes it", async () => {
    const query = { watch: "1", resourceVersion: "1", timeoutSeconds: "5" };
    const ended = api.open({ method: "GET", path: "/api/v1/pods", query }).then(
      async (body) => {
        for await (const chunk of body) return JSON.parse(String(chunk)).object.code as number;
        return 0;
      },
      (error: unknown) => (isStatus(error, 410) ? 410 : Promise.reject(error)),
    );
    const code = await ended;
    // A young server has compacted nothing yet, and then begins with what there is.
    assert.ok(code === 410 || code === undefined, String(code));
  });

  test("policies are none while their kind is absent, and are found when it comes", async () => {
    if ((await c.tryKubectl("get", "crd", "authorizationpolicies.security.istio.io")).code !== 0)
      assert.ok(await waitFor("absent is said", () => all.causes.includes("/apis/security.istio.io/v1/authorizationpolicies absent")));
    await c.kubectl("apply", "--server-side", "-k", `${ROOT}/daemonset/crds`);
    await c.apply(
      `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: ${namespace}}, spec: {action: DENY}}`,
    );
    await waitFor("the policy", () => all.held.has(`AuthorizationPolicy/${namespace}/p`));
  });

  test("a policy's status says whether it is in force, and what is wrong with it", async () => {
    const errors: unknown[] = [];
    const status = createPolicyStatus(
      {
        api,
        resources: controlResources(),
        isLeader: () => true,
        onWritten: () => undefined,
        onError: (_key, error) => errors.push(error),
      },
      all.stop,
    );
    const key: ObjectKey = `AuthorizationPolicy/${namespace}/p`;
    const object = all.held.get(key);
    assert.ok(object !== undefined);
    type Conditions = { status?: { conditions?: { type: string; status: string; message: string; observedGeneration: number }[] } };
    const own = async () =>
      (await c.get<Conditions>("-n", namespace, "authorizationpolicies.security.istio.io/p")).status?.conditions?.find(
        ({ type }) => type === ACCEPTED,
      );
    status.changed({ reset: false, put: [object], remove: [] }, []);
    await waitFor("accepted", async () => (await own())?.status === "True");
    status.changed({ reset: false, put: [], remove: [] }, [
      { code: "E_SOURCE_INVALID", key, file: "", line: 0, field: "spec.action", reason: "is wrong" },
    ]);
    await waitFor("refused", async () => (await own())?.status === "False");
    assert.match((await own())?.message ?? "", /^spec\.action: is wrong/);
    assert.deepEqual(errors, []);
  });

  test("a pod's condition is written beside the kubelet's, survives its updates, and is taken away again", async () => {
    await c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: runs, namespace: ${namespace}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "trackbed.test/busybox:1", command: [sleep, "1000000"]}]`);
    await c.kubectl("-n", namespace, "wait", "pod/runs", "--for=condition=Ready", "--timeout=90s");
    await waitFor("the source has it", () => pod("runs")?.ready === true);
    const runs = pod("runs");
    assert.ok(runs !== undefined);
    const errors: unknown[] = [];
    const onError = (_pod: string, error: unknown): void => void errors.push(error);
    const status = createPodStatus({ api, view: all.view, instance: "drill", onWritten: () => undefined, onError }, all.stop);
    all.listeners.push(status.changed);
    const say = (...pods: PodReport[]) => status.reported(runs.nodeName, { bootId: "boot", snapshot: false, pods });
    const conditions = async () => (await c.get("-n", namespace, "pod/runs")).status?.conditions ?? [];
    const before = (await conditions()).map(({ type }) => type).sort();
    say(report(runs, PodPhase.ABSENT, { code: "E_CAPTURE_FOREIGN_MESH", reason: "the drill says so" }));
    await waitFor("trouble", () => pod("runs")?.captured?.reason === "E_CAPTURE_FOREIGN_MESH");
    await waitFor("its Event", async () => (await c.kubectl("-n", namespace, "get", "events", "-o", "name")).includes("runs."));
    say(report(runs, PodPhase.READY));
    await waitFor("ready", () => pod("runs")?.captured?.status === "True");
    await c.kubectl("-n", namespace, "wait", "pod/runs", "--for=condition=trackbed.dev/Captured", "--timeout=10s");
    assert.deepEqual((await conditions()).map(({ type }) => type).sort(), [...before, "trackbed.dev/Captured"].sort());
    say(report(runs, PodPhase.ABSENT));
    await waitFor("taken away", () => pod("runs")?.captured === null);
    assert.deepEqual((await conditions()).map(({ type }) => type).sort(), before);
    const stale = { ...report(runs, PodPhase.READY), uid: randomUUID() };
    status.reported(runs.nodeName, { bootId: "boot", snapshot: false, pods: [stale] });
    await status.idle();
    assert.deepEqual([pod("runs")?.captured, errors], [null, []]);
  });

  test("a daemon is known by a token that is bound to its pod, for our audience, and by no other", async () => {
    await c.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: trackbed-daemon, namespace: ${namespace}}
---
apiVersion: v1
kind: Pod
metadata: {name: daemon, namespace: ${namespace}}
spec:
  serviceAccountName: trackbed-daemon
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "trackbed.test/busybox:1", command: [sleep, "1000000"]}]`);
    await c.kubectl("-n", namespace, "wait", "pod/daemon", "--for=condition=Ready", "--timeout=90s");
    await waitFor("the source has it", () => pod("daemon")?.ready === true);
    const daemon = pod("daemon");
    const reviews = createReviews({ api, view: all.view, namespace });
    const token = async (account: string, ...more: string[]) =>
      (await c.kubectl("-n", namespace, "create", "token", account, ...more)).trim();
    const bound = ["--bound-object-kind=Pod", "--bound-object-name=daemon", `--bound-object-uid=${daemon?.metadata.uid}`];
    const good = await token("trackbed-daemon", "--audience=trackbed", ...bound);
    assert.equal(await reviews.nodeOf(good), daemon?.nodeName);
    assert.equal(await reviews.nodeOf(await token("trackbed-daemon", "--audience=trackbed")), null, "bound to no pod");
    assert.equal(await reviews.nodeOf(await token("trackbed-daemon", ...bound)), null, "another audience");
    assert.equal(await reviews.nodeOf(await token("default", "--audience=trackbed")), null, "another account");
    assert.equal(await reviews.nodeOf(`${good}x`), null, "damaged");
    await c.kubectl("-n", namespace, "delete", "pod", "daemon", "--now");
    await waitFor("gone", () => pod("daemon") === undefined);
    assert.equal(await createReviews({ api, view: all.view, namespace }).nodeOf(good), null, "its pod is gone");
  });

  test("replicas that start at once share one root; its ConfigMap survives an install that knows nothing of it", async () => {
    const open = () => openSecretAuthority({ api, namespace });
    const authorities = await Promise.all([open(), open(), open()]);
    assert.equal(new Set(authorities.map((one) => one.roots())).size, 1);
    const [authority] = authorities;
    assert.ok(authority !== undefined);
    const empty = `{apiVersion: v1, kind: ConfigMap, metadata: {name: trackbed-root, namespace: ${namespace}}}`;
    await c.apply(empty, "--field-manager=trackbed");
    assert.equal(await publishRoots(api, namespace, authority.roots(), authority.rotation), true);
    await c.apply(empty, "--field-manager=trackbed", "--force-conflicts");
    assert.equal(await publishRoots(api, namespace, authority.roots(), authority.rotation), false);
    const later = await openSecretAuthority({ api, namespace, now: () => new Date(Date.now() + 300 * 86_400_000) });
    assert.match((await later.refresh()) ?? "", /issuer replaced/);
    assert.match((await authority.refresh()) ?? "", /issuer replaced/);
    assert.equal(authority.roots(), later.roots());
  });

  test("of two replicas one holds the Lease, and the other has it within seconds of its end", async () => {
    const stops = [new AbortController(), new AbortController()];
    const errors: unknown[] = [];
    const leases = stops.map((stop, i) =>
      holdLease(
        {
          api,
          namespace,
          name: "trackbed-control",
          identity: `replica-${i}`,
          onChange: () => undefined,
          onError: (error) => errors.push(error),
        },
        AbortSignal.any([stop.signal, over.signal]),
      ),
    );
    const first = await waitFor("one leads", () => leases.find((lease) => lease.held()));
    const at = leases.indexOf(first);
    stops[at]?.abort();
    await first.release();
    await waitFor("the other leads", () => leases[1 - at]?.held());
    stops[1 - at]?.abort();
    await leases[1 - at]?.release();
    assert.deepEqual(errors, []);
  });

  test("an API server that is killed and comes back takes nothing away, and what changed meanwhile arrives", async () => {
    const runs = pod("runs");
    assert.ok(runs !== undefined);
    const mine = follow(api, nodeResources(runs.nodeName), over.signal); // the scheduler chose the node
    await waitFor("read", () => mine.batches() > 0);
    const before = new Set(mine.held.keys());
    all.removed.length = 0;
    await c.program("restart", "cp", "kube-apiserver");
    await waitFor("the watches noticed", () => all.causes.some((cause) => cause.startsWith("/api/v1/pods ") && !cause.endsWith("absent")));
    await waitFor("the server is back", async () => (await c.tryKubectl("get", "--raw=/readyz")).code === 0);
    await c.kubectl("-n", namespace, "label", "pod", "runs", "after=restart");
    await waitFor("the change, everywhere", () =>
      [mine, all].every(({ held }) => (held.get(`Pod/${namespace}/runs`) as Pod | undefined)?.metadata.labels["after"] === "restart"),
    );
    assert.deepEqual([all.removed, mine.removed, before.difference(new Set(mine.held.keys()))], [[], [], new Set()]);
    await mine.end();
  });
});
