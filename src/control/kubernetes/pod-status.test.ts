import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { PodPhase, type PodReport } from "#contract/gen/control_pb.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { controlResources } from "#source/kubernetes/resources.ts";
import { kubernetesSource } from "#source/kubernetes.ts";
import { events, fakeApi } from "../../../test/apiserver.ts";
import { createView } from "../view.ts";
import { conditionOf, isCaptured, isSame } from "./condition.ts";
import { createPodStatus } from "./pod-status.ts";

const PODS = "/api/v1/pods";
const KUBELET = { type: "Ready", status: "True", lastTransitionTime: "2026-01-01T00:00:00Z" };
const BOOT = "0b0d5b62-6f2a-4f5e-9a53-6a4f2a6a4d11";

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const report = (name: string, phase: PodPhase, more: Partial<PodReport> = {}): PodReport =>
  ({ uid: `uid-${name}`, namespace: "shop", name, phase, netnsCookie: 7n, code: "", reason: "", ...more }) as PodReport;

async function cluster(t: TestContext, ...names: string[]) {
  const server = await fakeApi();
  const absent = controlResources().flatMap(({ root, plural, definition }) => (definition === null ? [] : [`${root}/${plural}`]));
  for (const collection of absent) server.serve(collection);
  const stop = new AbortController();
  const api = createApi(server.credentials);
  const put = (name: string, uid = `uid-${name}`, conditions: object[] = [KUBELET]) =>
    server.put(PODS, {
      metadata: { name, namespace: "shop", uid },
      spec: { nodeName: "node-a" },
      status: { phase: "Running", conditions },
    });
  for (const name of names) put(name);
  function replica(instance: string) {
    const view = createView("cluster.local");
    const written: string[] = [];
    const errors: string[] = [];
    const status = createPodStatus(
      {
        api,
        view,
        instance,
        onWritten: (kind, result) => written.push(`${kind} ${result}`),
        onError: (pod) => errors.push(pod),
        times: { perSecond: 1000, retryMilliseconds: { first: 10, most: 50 } },
      },
      stop.signal,
    );
    const running = (async () => {
      for await (const change of kubernetesSource({ api, resources: controlResources() })(stop.signal)) {
        view.apply(change);
        status.changed(change);
      }
    })();
    t.after(async () => {
      stop.abort();
      await running;
    });
    const say = (snapshot: boolean, ...pods: PodReport[]) => status.reported("node-a", { bootId: BOOT, snapshot, pods });
    const read = () => until("the pods are read", () => names.every((name) => view.pod(`uid-${name}`) !== undefined));
    return { view, status, written, errors, say, read };
  }
  t.after(() => server.close());
  const conditions = (name: string) =>
    ((server.get(PODS, "shop", name)?.["status"] as { conditions?: Record<string, string>[] } | undefined)?.conditions ?? []) as Record<
      string,
      string
    >[];
  const captured = (name: string) => conditions(name).find(({ type }) => type === "trackbed.dev/Captured");
  const patches = () => server.requests.filter(({ method }) => method === "PATCH");
  return { server, put, replica, conditions, captured, patches };
}

test("what a node says of a pod is its condition, beside the kubelet's own, with the network namespace in it", async (t) => {
  const c = await cluster(t, "cart");
  const a = c.replica("a");
  await a.read();
  a.say(true, report("cart", PodPhase.CAPTURED));
  await until("captured", () => c.captured("cart") !== undefined);
  assert.deepEqual([c.captured("cart")?.["status"], c.captured("cart")?.["reason"]], ["False", "Captured"]);
  a.say(false, report("cart", PodPhase.READY));
  await until("ready", () => c.captured("cart")?.["status"] === "True");
  assert.deepEqual([c.captured("cart")?.["reason"], c.captured("cart")?.["message"]], ["Ready", `network namespace ${BOOT}/7`]);
  assert.deepEqual(c.conditions("cart")[0], KUBELET);
  await until("read back", () => a.view.pod("uid-cart")?.captured?.status === "True");
  const before = c.patches().length;
  for (let i = 0; i < 20; i++) a.say(false, report("cart", PodPhase.READY));
  await a.status.idle();
  assert.equal(c.patches().length, before, "what is said again is not written again");
});

test("a pod in trouble has the code as its reason and one Event, however often its node says so", async (t) => {
  const c = await cluster(t, "cart");
  const a = c.replica("a");
  await a.read();
  for (let i = 0; i < 10; i++) {
    a.say(i === 0, report("cart", PodPhase.ABSENT, { code: "E_CAPTURE_FOREIGN_MESH", reason: `it has Istio's rules, seen ${i} times` }));
    await a.status.idle();
  }
  await until("read back", () => a.view.pod("uid-cart")?.captured !== null);
  a.say(false, report("cart", PodPhase.ABSENT, { code: "E_CAPTURE_FOREIGN_MESH", reason: "once more" }));
  await a.status.idle();
  assert.deepEqual([c.captured("cart")?.["status"], c.captured("cart")?.["reason"]], ["False", "E_CAPTURE_FOREIGN_MESH"]);
  const [event, ...more] = events(c.server);
  assert.equal(more.length, 0);
  const { type, reason, message, involvedObject } = event as unknown as Record<string, unknown> & { involvedObject: object };
  assert.deepEqual(
    [type, reason, involvedObject],
    ["Warning", "E_CAPTURE_FOREIGN_MESH", { apiVersion: "v1", kind: "Pod", namespace: "shop", name: "cart", uid: "uid-cart" }],
  );
  assert.match(String(message), /Istio's rules.*; take the pod out of the other mesh first/);
});

test("a pod that left the mesh loses its condition, also one that an older replica wrote, and keeps the kubelet's", async (t) => {
  const c = await cluster(t, "cart", "old");
  c.put("old", "uid-old", [KUBELET, { type: "trackbed.dev/Captured", status: "True", reason: "Ready", message: "network namespace x/1" }]);
  const a = c.replica("a");
  await a.read();
  await until("the old condition", () => a.view.pod("uid-old")?.captured !== null);
  a.say(true, report("cart", PodPhase.READY));
  await until("both", () => c.captured("cart") !== undefined && c.captured("old") === undefined);
  a.say(false, report("cart", PodPhase.ABSENT));
  await until("none", () => c.captured("cart") === undefined);
  assert.deepEqual(c.conditions("old"), [KUBELET]);
});

test("since when is kept while the status stays, and begins again when it changes", async (t) => {
  const c = await cluster(t, "cart");
  c.put("cart", "uid-cart", [
    {
      type: "trackbed.dev/Captured",
      status: "False",
      reason: "Captured",
      message: "network namespace x/1: …",
      lastTransitionTime: "2026-01-01T00:00:00Z",
    },
  ]);
  const a = c.replica("a");
  await a.read();
  a.say(true, report("cart", PodPhase.ABSENT, { code: "E_CAPTURE_NETNS_GONE", reason: "gone" }));
  await until("another reason", () => c.captured("cart")?.["reason"] === "E_CAPTURE_NETNS_GONE");
  assert.equal(c.captured("cart")?.["lastTransitionTime"], "2026-01-01T00:00:00Z");
  await until("read back", () => a.view.pod("uid-cart")?.captured?.reason === "E_CAPTURE_NETNS_GONE");
  a.say(false, report("cart", PodPhase.READY));
  await until("another status", () => c.captured("cart")?.["status"] === "True");
  assert.notEqual(c.captured("cart")?.["lastTransitionTime"], "2026-01-01T00:00:00Z");
});

test("a pod whose name another one has now is not written to", async (t) => {
  const c = await cluster(t, "cart");
  const a = c.replica("a");
  await a.read();
  c.put("cart", "uid-successor");
  await until("the successor is read", () => a.view.pod("uid-cart") === undefined);
  a.say(true, report("cart", PodPhase.READY), report("gone", PodPhase.READY));
  await a.status.idle();
  assert.deepEqual([c.captured("cart"), a.errors, a.status.pending()], [undefined, [], 0]);
});

test("an API server that refuses is asked again later, and then shows the newest state only", async (t) => {
  const c = await cluster(t, "cart");
  const a = c.replica("a");
  await a.read();
  let refusals = 3;
  c.server.fault = ({ method }) => (method === "PATCH" && refusals-- > 0 ? { status: 403 } : null);
  a.say(true, report("cart", PodPhase.CAPTURED));
  await until("an attempt", () => a.errors.length > 0);
  a.say(false, report("cart", PodPhase.READY));
  await until("written", () => c.captured("cart")?.["status"] === "True");
  assert.equal(c.patches().filter(({ body }) => JSON.stringify(body).includes('"Captured"')).length, 1);
  assert.deepEqual([...new Set(a.errors)], ["shop/cart"]);
});

test("a condition that somebody writes over comes back; a node that went to the other replica is the other's to write", async (t) => {
  const c = await cluster(t, "cart");
  const [a, b] = [c.replica("a"), c.replica("b")];
  await Promise.all([a.read(), b.read()]);
  a.say(true, report("cart", PodPhase.READY));
  await until("written", () => c.captured("cart")?.["status"] === "True");
  c.put("cart", "uid-cart", [KUBELET]);
  await until("written again", () => c.captured("cart")?.["status"] === "True");
  a.status.reported("node-a", null);
  b.say(true, report("cart", PodPhase.CAPTURED));
  await until("the other's word", () => c.captured("cart")?.["status"] === "False");
  await until("both have read it", () => [a, b].every(({ view }) => view.pod("uid-cart")?.captured?.status === "False"));
  await Promise.all([a.status.idle(), b.status.idle()]);
  assert.equal(c.captured("cart")?.["status"], "False");
});

test("the other replica reads from the condition exactly whether peers must use tunnels", () => {
  const condition = (one: PodReport) => {
    const said = conditionOf(one, BOOT);
    assert.ok(said !== null);
    return { ...said, since: "" };
  };
  assert.equal(isCaptured(condition(report("p", PodPhase.READY))), true);
  assert.equal(isCaptured(condition(report("p", PodPhase.CAPTURED))), true);
  assert.equal(isCaptured(condition(report("p", PodPhase.CAPTURED, { code: "E_IDENTITY_MISSING", reason: "no certificate" }))), true);
  assert.equal(isCaptured(condition(report("p", PodPhase.ABSENT, { code: "E_CAPTURE_RULES_FAILED", reason: "no nft" }))), false);
  assert.equal(conditionOf(report("p", PodPhase.ABSENT), BOOT), null);
  const at = (cookie: bigint) => conditionOf(report("p", PodPhase.READY, { netnsCookie: cookie }), BOOT);
  assert.deepEqual([isSame(at(1n), at(1n)), isSame(at(1n), at(2n)), isSame(at(1n), null)], [true, false, false]);
  const said = (reason: string) => conditionOf(report("p", PodPhase.CAPTURED, { code: "E_IDENTITY_MISSING", reason }), BOOT);
  assert.equal(isSame(said("for 3 s"), said("for 4 s")), true);
});
