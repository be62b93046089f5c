import assert from "node:assert/strict";
import { test } from "node:test";
import type { NodeUpdate } from "#compile/compiler.ts";
import type { CaptureCondition, MeshObject, Pod } from "#mesh/objects.ts";
import { projectDocument } from "#source/project/project.ts";
import { createView } from "../view.ts";
import { createElsewhere } from "./elsewhere.ts";

const object = (document: object): MeshObject => {
  const { object } = projectDocument(document);
  assert.ok(object !== null);
  return object;
};
const namespace = (enabled: boolean) =>
  object({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: "shop", ...(enabled ? { labels: { "trackbed.dev/mesh": "enabled" } } : {}) },
  });
const pod = (name: string, captured: CaptureCondition["status"] | null = null, status: object = { podIP: "10.0.0.1" }): Pod => {
  const metadata = { name, namespace: "shop", uid: name };
  const found = object({ apiVersion: "v1", kind: "Pod", metadata, spec: { nodeName: "node-a" }, status });
  assert.ok(found.kind === "Pod");
  return { ...found, captured: captured === null ? null : { status: captured, reason: "x", message: "y", since: "" } };
};

function replica() {
  const view = createView("cluster.local");
  /** What the compiler believes of node-a's pods: undefined before the first word, then the captured ones. */
  let believed: Set<string> | undefined;
  const updates: NodeUpdate[] = [];
  const overdue: string[] = [];
  let attached = false;
  let now = 0;
  const elsewhere = createElsewhere({
    adopt: "none",
    isAttached: () => attached,
    namespace: view.namespace,
    pods: () => [...view.objects()].filter((one) => one.kind === "Pod"),
    report: (update) => {
      updates.push(update);
      believed ??= new Set();
      for (const { uid, captured } of update.pods) captured ? believed.add(uid) : believed.delete(uid);
    },
    onOverdue: ({ metadata }) => overdue.push(metadata.name),
    now: () => now,
  });
  const put = (...objects: MeshObject[]) => {
    const change = { reset: false, put: objects, remove: [] };
    view.apply(change);
    elsewhere.changed(change);
  };
  const tunnelled = (name: string) => believed?.has(name) ?? true;
  return {
    elsewhere,
    put,
    tunnelled,
    updates,
    overdue,
    attach: (is: boolean) => (attached = is),
    advance: (milliseconds: number) => (now += milliseconds),
  };
}

test("a pod that was in the mesh when we looked first is reached by tunnels, with or without a condition, unless it says no", () => {
  const r = replica();
  r.put(namespace(true), pod("quiet"), pod("ready", "True"), pod("failed", "False"));
  assert.deepEqual([r.tunnelled("quiet"), r.tunnelled("ready"), r.tunnelled("failed")], [true, true, false]);
});

test("a pod that ran before its label came is reached as before until it is captured", () => {
  const r = replica();
  r.put(namespace(false), pod("cart"));
  r.put(namespace(true));
  assert.equal(r.tunnelled("cart"), false);
  r.put(pod("cart", "True"));
  assert.equal(r.tunnelled("cart"), true);
  assert.deepEqual(r.overdue, []);
});

test("a pod that is created in the mesh is reached by tunnels from its first moment", () => {
  const r = replica();
  r.put(namespace(true), pod("other", "True"));
  r.put(pod("new", null, { phase: "Pending" }));
  r.put(pod("new", null));
  assert.equal(r.tunnelled("new"), true);
});

test("of whom nobody says in time that it is captured, the closed answer holds, and it is told", () => {
  const r = replica();
  r.put(namespace(false), pod("cart"));
  r.put(namespace(true));
  r.advance(29_000);
  r.elsewhere.sweep();
  assert.equal(r.tunnelled("cart"), false);
  r.advance(2_000);
  r.elsewhere.sweep();
  assert.deepEqual([r.tunnelled("cart"), r.overdue], [true, ["cart"]]);
  r.elsewhere.sweep();
  assert.deepEqual(r.overdue, ["cart"]);
});

test("a pod that left the mesh and comes back is a running pod again", () => {
  const r = replica();
  r.put(namespace(true), pod("cart", "True"));
  r.put(namespace(false));
  r.put(pod("cart"));
  r.put(namespace(true));
  assert.equal(r.tunnelled("cart"), false);
});

test("of a node whose stream ends here only the stream counts; when it left, the conditions count again", () => {
  const r = replica();
  r.attach(true);
  r.put(namespace(true), pod("cart", "True"));
  assert.deepEqual(r.updates, []);
  r.attach(false);
  r.elsewhere.detached("node-a");
  r.put(pod("pay", "False"));
  assert.deepEqual([r.tunnelled("cart"), r.tunnelled("pay")], [true, false]);
});

test("a change that says nothing new about capture is no report", () => {
  const r = replica();
  r.put(namespace(true), pod("cart", "True"));
  const before = r.updates.length;
  r.put(pod("cart", "True", { podIP: "10.0.0.2" }));
  r.put(namespace(true));
  assert.equal(r.updates.length, before);
});

test("a node that is gone is forgotten: one of its name is told of anew, with all of its pods", () => {
  const r = replica();
  r.put(namespace(true), pod("cart", "True"));
  r.elsewhere.changed({ reset: false, put: [], remove: ["Node//node-a"] });
  const before = r.updates.length;
  r.put(pod("pay", "True"));
  assert.deepEqual(
    r.updates.slice(before).flatMap(({ pods }) => pods.map(({ uid }) => uid)),
    ["cart", "pay"],
  );
});
