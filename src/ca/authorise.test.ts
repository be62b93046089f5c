import assert from "node:assert/strict";
import { test } from "node:test";
import type { Namespace, Node, Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import { authorise, type CertificateClaim, type ClusterView } from "./authorise.ts";
import { CERTIFICATES_BURST, CERTIFICATES_PER_MINUTE, CERTIFICATES_WAIT_MILLISECONDS, createRateLimit } from "./rate.ts";

const namespace: Namespace = { kind: "Namespace", metadata: meta("", "shop", { labels: { "trackbed.dev/mesh": "enabled" } }) };
const node = (name: string): Node => ({ kind: "Node", metadata: meta("", name), addresses: [], podCIDRs: [] });
const pod = (more: Partial<Pod> = {}): Pod => podOf(meta("shop", "cart"), { nodeName: "node-a", serviceAccountName: "cart", ...more });

function view(pods: Pod[], nodes = ["node-a", "node-b"], namespaces = [namespace]): ClusterView {
  return {
    trustDomain: "cluster.local",
    adopt: "none",
    node: (name) => nodes.map(node).find(({ metadata }) => metadata.name === name),
    namespace: (name) => namespaces.find(({ metadata }) => metadata.name === name),
    pod: (uid) => pods.find(({ metadata }) => metadata.uid === uid),
    waypoint: (uid) =>
      pods.find(({ metadata }) => metadata.uid === uid && metadata.labels["gateway.networking.k8s.io/gateway-name"] !== undefined),
    podsOn: (name) => pods.filter(({ nodeName }) => nodeName === name),
  };
}

const claim: CertificateClaim = { node: "node-a", identity: "spiffe://cluster.local/ns/shop/sa/cart", podUid: "uid-cart" };

function answer(more: Partial<CertificateClaim>, cluster: ClusterView): string {
  const verdict = authorise({ ...claim, ...more }, cluster);
  return "identity" in verdict ? "certificate" : verdict.code;
}

const rows: [title: string, expected: string, more: Partial<CertificateClaim>, cluster: ClusterView][] = [
  ["a live pod with that service account on the caller's node", "certificate", {}, view([pod()])],
  ["a pending pod, which may need TLS to become ready", "certificate", {}, view([pod({ phase: "Pending", ready: false })])],
  ["a caller that names no pod but has one with that account", "certificate", { podUid: "" }, view([pod()])],
  ["a caller that names no pod and whose pods are elsewhere", "E_IDENTITY_REFUSED", { podUid: "" }, view([pod({ nodeName: "node-b" })])],
  ["a pod that is on another node only", "E_IDENTITY_REFUSED", {}, view([pod({ nodeName: "node-b" })])],
  ["a pod that is not scheduled yet", "E_IDENTITY_REFUSED", {}, view([pod({ nodeName: "" })])],
  ["a pod that succeeded", "E_IDENTITY_REFUSED", {}, view([pod({ phase: "Succeeded" })])],
  ["a pod that failed", "E_IDENTITY_REFUSED", {}, view([pod({ phase: "Failed" })])],
  ["a deleted pod", "E_IDENTITY_REFUSED", {}, view([])],
  ["the same pod name with a new uid", "E_IDENTITY_REFUSED", {}, view([pod({ metadata: meta("shop", "cart", { uid: "uid-new" }) })])],
  [
    "another service account of the same pod's namespace",
    "E_IDENTITY_REFUSED",
    { identity: "spiffe://cluster.local/ns/shop/sa/admin" },
    view([pod()]),
  ],
  [
    "the same service account of another namespace",
    "E_IDENTITY_REFUSED",
    { identity: "spiffe://cluster.local/ns/bank/sa/cart" },
    view([pod()]),
  ],
  ["another trust domain", "E_IDENTITY_REFUSED", { identity: "spiffe://other.local/ns/shop/sa/cart" }, view([pod()])],
  [
    "a pod whose label says disabled",
    "E_IDENTITY_REFUSED",
    {},
    view([pod({ metadata: meta("shop", "cart", { labels: { "trackbed.dev/mesh": "disabled" } }) })]),
  ],
  ["a pod of a namespace outside the mesh", "E_IDENTITY_REFUSED", {}, view([pod()], ["node-a"], [])],
  ["a hostNetwork pod", "E_IDENTITY_REFUSED", {}, view([pod({ hostNetwork: true })])],
  ["a node that was deleted", "E_IDENTITY_REFUSED", {}, view([pod()], ["node-b"])],
  ["a name with an escape", "E_IDENTITY_MALFORMED", { identity: "spiffe://cluster.local/ns/shop/sa/c%61rt" }, view([pod()])],
  ["a name with a trailing slash", "E_IDENTITY_MALFORMED", { identity: `${claim.identity}/` }, view([pod()])],
  ["a name with NUL", "E_IDENTITY_MALFORMED", { identity: `${claim.identity}\0` }, view([pod()])],
  ["an empty name", "E_IDENTITY_MALFORMED", { identity: "" }, view([pod()])],
];

for (const [title, expected, more, cluster] of rows) {
  test(`${title}: ${expected}`, () => assert.equal(answer(more, cluster), expected));
}

test("a refusal says in the log which part was wrong, in one bounded line", () => {
  const verdict = authorise({ ...claim, identity: `spiffe://\n${"x".repeat(10_000)}` }, view([pod()]));
  assert.ok("reason" in verdict && verdict.reason.length < 2000 && !verdict.reason.includes("\n"));
  const other = authorise(claim, view([pod({ nodeName: "node-b" })]));
  assert.ok("reason" in other && other.reason.includes('runs on node "node-b"'));
});

test("a node that asks too often waits, then is refused, and recovers; no other node notices", () => {
  let at = 0;
  const limit = createRateLimit(() => at);
  for (let i = 0; i < CERTIFICATES_BURST; i++) assert.deepEqual(limit.reserve("greedy"), { waitMilliseconds: 0 });
  const waits: number[] = [];
  for (let next = limit.reserve("greedy"); next !== "refused"; next = limit.reserve("greedy")) waits.push(next.waitMilliseconds);
  assert.ok(waits.length > 0 && waits.every((wait, i) => wait > (waits[i - 1] ?? 0) && wait <= CERTIFICATES_WAIT_MILLISECONDS));
  assert.deepEqual(limit.reserve("modest"), { waitMilliseconds: 0 });
  at += 60_000;
  let granted = 0;
  for (let next = limit.reserve("greedy"); next !== "refused" && next.waitMilliseconds === 0; next = limit.reserve("greedy")) granted++;
  assert.ok(granted > 0 && granted <= CERTIFICATES_PER_MINUTE);
});
