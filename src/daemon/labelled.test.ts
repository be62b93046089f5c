// Claims about the namespaces whose new pods wait for the daemon because pods of theirs are labelled one by one.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshObject, ObjectKey } from "#mesh/objects.ts";
import type { Change, Fault, Source } from "#source/source.ts";
import { createLabelled } from "./labelled.ts";

const pod = (namespace: string, name: string): MeshObject => ({ kind: "Pod", metadata: { namespace, name } }) as MeshObject;
const change = (more: Partial<Change>): Change => ({
  reset: false,
  put: [],
  remove: [],
  faults: [],
  places: new Map<ObjectKey, never>(),
  ...more,
});

const listing = (...changes: readonly Partial<Change>[]): Source =>
  async function* () {
    for (const one of changes) yield change(one);
  };

async function told(...changes: readonly Partial<Change>[]): Promise<(string[] | null)[]> {
  const labelled = createLabelled([listing(...changes)]);
  const sets: (string[] | null)[] = [labelled.namespaces === null ? null : []];
  await labelled.run(() => sets.push([...(labelled.namespaces ?? [])].sort()), new AbortController().signal);
  return sets;
}

test("nothing is known until the pods were listed, and then also that there are none", async () => {
  assert.deepEqual(await told({ reset: true }), [null, []]);
});

test("a namespace counts from its first labelled pod to its last, and is told only when it changes", async () => {
  assert.deepEqual(
    await told(
      { reset: true, put: [pod("shop", "a")] },
      { put: [pod("shop", "b"), pod("bank", "a")] },
      { remove: ["Pod/shop/a"] },
      { remove: ["Pod/shop/b"] },
    ),
    [null, ["shop"], ["bank", "shop"], ["bank"]],
  );
});

test("a list that begins again forgets what it does not name", async () => {
  assert.deepEqual(await told({ reset: true, put: [pod("shop", "a")] }, { reset: true, put: [pod("bank", "a")] }), [
    null,
    ["shop"],
    ["bank"],
  ]);
});

test("a labelled pod that cannot be read counts too", async () => {
  const fault: Fault = { code: "E_SOURCE_INVALID", key: "Pod/shop/a", file: "", line: 0, field: "", reason: "" };
  assert.deepEqual(await told({ reset: true, faults: [fault] }), [null, ["shop"]]);
});

test("with two labels nothing is known before both were listed, and a pod that has both counts until it has neither", async () => {
  const both = [{ reset: true, put: [pod("shop", "a")] }];
  const never: Source = () => ({ [Symbol.asyncIterator]: () => ({ next: async () => ({ done: true, value: undefined }) }) });
  const half = createLabelled([listing(...both), never]);
  await half.run(() => assert.fail("half of it is nothing"), new AbortController().signal);
  assert.equal(half.namespaces, null);
  const whole = createLabelled([listing(...both), listing(...both, { remove: ["Pod/shop/a"] })]);
  await whole.run(() => undefined, new AbortController().signal);
  assert.deepEqual([...(whole.namespaces ?? [])], ["shop"]);
});
