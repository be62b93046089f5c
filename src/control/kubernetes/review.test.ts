import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { createApi } from "#source/kubernetes/api.ts";
import { projectDocument } from "#source/project/project.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { createView } from "../view.ts";
import { createReviews } from "./review.ts";

type Claim = { authenticated?: boolean; audiences?: string[]; username?: string; extra?: Record<string, string[]> };

const DAEMON = "system:serviceaccount:trackbed-system:trackbed-daemon";
const bound = (node: string, uid: string) => ({
  "authentication.kubernetes.io/node-name": [node],
  "authentication.kubernetes.io/pod-name": ["daemon-x"],
  "authentication.kubernetes.io/pod-uid": [uid],
});
const good = (extra: Record<string, string[]> = bound("node-a", "uid-a")): Claim => ({
  authenticated: true,
  audiences: ["trackbed"],
  username: DAEMON,
  extra,
});

async function callers(t: TestContext) {
  const api = await fakeApi();
  t.after(() => api.close());
  const claims = new Map<string, Claim>();
  let reviews = 0;
  api.answer = ({ body }) => {
    reviews++;
    const { spec } = body as { spec: { token: string; audiences: string[] } };
    assert.deepEqual(spec.audiences, ["trackbed"]);
    const { authenticated = false, audiences = [], username = "", extra = {} } = claims.get(spec.token) ?? {};
    return { status: { authenticated, audiences, user: { username, extra } } };
  };
  const view = createView("cluster.local");
  const put = (document: object) => {
    const { object } = projectDocument(document);
    assert.ok(object !== null);
    view.apply({ reset: false, put: [object], remove: [] });
  };
  const node = (name: string) => put({ apiVersion: "v1", kind: "Node", metadata: { name } });
  const pod = (uid: string, nodeName: string, phase = "Running") =>
    put({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: uid, namespace: "trackbed-system", uid },
      spec: { nodeName },
      status: { phase },
    });
  const waypoint = (uid: string, serviceAccountName: string) => {
    const labels = {
      "gateway.networking.k8s.io/gateway-name": "waypoint",
      "gateway.networking.k8s.io/gateway-class-name": "trackbed-waypoint",
    };
    const metadata = { name: uid, namespace: "shop", uid, labels };
    const listeners = [{ name: "mesh", port: 15008, protocol: "HBONE" }];
    const spec = { gatewayClassName: "trackbed-waypoint", listeners };
    put({
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata: { name: "waypoint", namespace: "shop", uid: "uid-gateway" },
      spec,
    });
    put({ apiVersion: "v1", kind: "Pod", metadata, spec: { nodeName: "node-a", serviceAccountName }, status: { phase: "Running" } });
  };
  for (const name of ["node-a", "node-b"]) node(name);
  pod("uid-a", "node-a");
  /** Known to the server, not yet to our watch. */
  const unseen = (uid: string) => api.put("/api/v1/pods", { metadata: { name: "daemon-x", namespace: "trackbed-system", uid } });
  let now = 0;
  const reviewed = createReviews({ api: createApi(api.credentials), view, namespace: "trackbed-system", now: () => now });
  return {
    api,
    claims,
    view,
    pod,
    waypoint,
    unseen,
    reviewed,
    count: () => reviews,
    advance: (milliseconds: number) => (now += milliseconds),
  };
}

test("a daemon's pod-bound token proves its node, and is reviewed once a minute however often it calls", async (t) => {
  const c = await callers(t);
  c.claims.set("t", good());
  assert.deepEqual(await Promise.all(Array.from({ length: 50 }, () => c.reviewed.nodeOf("t"))), Array(50).fill("node-a"));
  assert.equal(c.count(), 1);
  c.advance(59_000);
  await c.reviewed.nodeOf("t");
  assert.equal(c.count(), 1);
  c.advance(2_000);
  c.claims.delete("t");
  assert.equal(await c.reviewed.nodeOf("t"), null, "a revoked token counts a minute at most");
  assert.equal(c.count(), 2);
});

test("another ServiceAccount, audience or cluster, and a token bound to no pod, prove nothing", async (t) => {
  const c = await callers(t);
  const wrong: Record<string, Claim> = {
    unknown: {},
    "another account": { ...good(), username: "system:serviceaccount:trackbed-system:default" },
    "another namespace": { ...good(), username: "system:serviceaccount:shop:trackbed-daemon" },
    "another audience": { ...good(), audiences: ["https://kubernetes.default.svc"] },
    "no pod": good({ "authentication.kubernetes.io/node-name": ["node-a"] }),
    "a node that is gone": good(bound("node-z", "uid-a")),
  };
  for (const [token, claim] of Object.entries(wrong)) {
    c.claims.set(token, claim);
    assert.equal(await c.reviewed.nodeOf(token), null, token);
  }
  const before = c.count();
  assert.equal(await c.reviewed.nodeOf("x".repeat(20_000)), null);
  assert.equal(c.count(), before, "what cannot be a token is not even reviewed");
});

test("a server that does not name the node in the token: our own watch says where that very pod runs", async (t) => {
  const c = await callers(t);
  c.claims.set("old", good({ "authentication.kubernetes.io/pod-uid": ["uid-a"] }));
  assert.equal(await c.reviewed.nodeOf("old"), "node-a");
  c.claims.set("unseen", good({ "authentication.kubernetes.io/pod-uid": ["uid-z"] }));
  assert.equal(await c.reviewed.nodeOf("unseen"), null);
});

test("a token that outlives its pod proves nothing, though the server still accepts it; one whose pod we have not seen yet does", async (t) => {
  const c = await callers(t);
  c.claims.set("new", good(bound("node-b", "uid-b")));
  assert.equal(await c.reviewed.nodeOf("new"), null, "neither the watch nor the server has the pod");
  c.unseen("uid-b");
  assert.equal(await c.reviewed.nodeOf("new"), "node-b");
  c.view.apply({ reset: false, put: [], remove: ["Pod/trackbed-system/uid-a"] });
  c.claims.set("a", good());
  assert.equal(await c.reviewed.nodeOf("a"), null);
});

test("while the API server does not answer nobody is let in and nobody is called a stranger", async (t) => {
  const c = await callers(t);
  c.claims.set("t", good());
  c.api.fault = () => ({ status: 500 });
  await assert.rejects(c.reviewed.nodeOf("t"), /HTTP 500/);
  c.api.fault = () => null;
  assert.equal(await c.reviewed.nodeOf("t"), "node-a");
});

test("streams end when the node is gone, or the daemon's pod that proved it is", async (t) => {
  const c = await callers(t);
  c.claims.set("a", good());
  c.claims.set("b", good(bound("node-b", "uid-b")));
  c.unseen("uid-b");
  await c.reviewed.nodeOf("a");
  await c.reviewed.nodeOf("b");
  assert.deepEqual(await c.reviewed.refresh(["node-a", "node-b"]), []);
  c.advance(31_000);
  assert.deepEqual(await c.reviewed.refresh(["node-a", "node-b"]), ["node-b"]);
  c.pod("uid-a", "node-a", "Failed");
  assert.deepEqual(await c.reviewed.refresh(["node-a", "node-b"]), ["node-a"]);
  assert.equal(await c.reviewed.nodeOf("a"), null, "also while the review is remembered");
});

test("a thousand daemons that come back at once are reviewed a few at a time", async (t) => {
  const c = await callers(t);
  let atOnce = 0;
  let most = 0;
  const answer = c.api.answer;
  c.api.fault = () => {
    most = Math.max(most, ++atOnce);
    return null;
  };
  c.api.answer = (asked) => {
    atOnce--;
    return answer(asked);
  };
  for (let i = 0; i < 1000; i++) c.claims.set(`t${i}`, good());
  const nodes = await Promise.all(Array.from({ length: 1000 }, (_, i) => c.reviewed.nodeOf(`t${i}`)));
  assert.ok(nodes.every((node) => node === "node-a"));
  assert.ok(most <= 32, String(most));
});

test("an address that shows made-up tokens is not looked at any more for a while; known tokens and other addresses are", async (t) => {
  const c = await callers(t);
  c.claims.set("mine", good());
  assert.equal(await c.reviewed.nodeOf("mine", "10.0.0.1"), "node-a");
  const flood = await Promise.allSettled(Array.from({ length: 500 }, (_, i) => c.reviewed.nodeOf(`made-up-${i}`, "10.0.0.1")));
  assert.ok(c.count() < 100, `${c.count()} reviews for 500 made-up tokens`);
  assert.ok(flood.every((one) => (one.status === "fulfilled" ? one.value === null : /too many unknown tokens/.test(String(one.reason)))));
  const before = c.count();
  await assert.rejects(c.reviewed.nodeOf("one-more", "10.0.0.1"), /too many unknown tokens from this address/);
  assert.equal(await c.reviewed.nodeOf("mine", "10.0.0.1"), "node-a", "it is known");
  assert.equal(c.count(), before);
  assert.equal(await c.reviewed.nodeOf("made-up-again", "10.0.0.2"), null);
  c.advance(5_001);
  c.claims.set("renewed", good());
  assert.equal(await c.reviewed.nodeOf("renewed", "10.0.0.1"), "node-a", "one more is looked at after a while");
});

test("a waypoint's pod-bound token proves its pod, once the watch has it as a waypoint of that ServiceAccount; it proves no node", async (t) => {
  const c = await callers(t);
  const of = (account: string, uid: string): Claim => ({
    ...good(bound("node-a", uid)),
    username: `system:serviceaccount:shop:${account}`,
  });
  c.waypoint("uid-w", "way");
  c.claims.set("way", of("way", "uid-w"));
  assert.equal(await c.reviewed.waypointOf("way"), "uid-w");
  assert.equal(await c.reviewed.nodeOf("way"), null);
  assert.equal(c.count(), 1, "one review serves both questions");
  const wrong: Record<string, Claim> = {
    "another account": of("default", "uid-w"),
    "another namespace": { ...of("way", "uid-w"), username: "system:serviceaccount:bank:way" },
    "another audience": { ...of("way", "uid-w"), audiences: ["https://kubernetes.default.svc"] },
    "a pod that is no waypoint's": of("way", "uid-a"),
    "bound to no pod": { ...of("way", "uid-w"), extra: {} },
    "a daemon": good(),
  };
  for (const [token, claim] of Object.entries(wrong)) {
    c.claims.set(token, claim);
    assert.equal(await c.reviewed.waypointOf(token), null, token);
  }
  c.view.apply({ reset: false, put: [], remove: ["Gateway/shop/waypoint"] });
  assert.equal(await c.reviewed.waypointOf("way"), null, "its Gateway is gone, and whoever may make pods could have labelled it");
  c.waypoint("uid-w", "way");
  assert.equal(await c.reviewed.waypointOf("way"), "uid-w");
  c.view.apply({ reset: false, put: [], remove: ["Pod/shop/uid-w"] });
  assert.equal(await c.reviewed.waypointOf("way"), null, "its pod is gone, and the review is still remembered");
});
