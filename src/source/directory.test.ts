import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { keyOf, type MeshObject } from "#mesh/objects.ts";
import { directorySource } from "#source/directory.ts";
import type { Change } from "#source/source.ts";

const DEADLINE_MILLISECONDS = 5000;
const roots: string[] = [];
const stops: AbortController[] = [];
after(() => {
  for (const stop of stops) stop.abort(); // also when a test failed: a live watch would keep the process
  for (const root of roots) rmSync(root, { recursive: true, force: true });
});

const pod = (name: string, extra = "") =>
  `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, namespace: shop}\nspec: {nodeName: n1}\n${extra}`;
const policy = (name: string, spec: string) =>
  `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: ${name}\n  namespace: shop\nspec:\n${spec}`;

/** A directory with a source on it, and what the source says is in force. */
async function watched(files: Record<string, string>) {
  const dir = mkdtempSync(join(tmpdir(), "trackbed-source-"));
  roots.push(dir);
  const put = (name: string, text: string): void => {
    mkdirSync(join(dir, name, ".."), { recursive: true });
    writeFileSync(join(dir, name), text);
  };
  for (const [name, text] of Object.entries(files)) put(name, text);
  const stop = new AbortController();
  stops.push(stop);
  const stream = directorySource(dir)(stop.signal)[Symbol.asyncIterator]();
  const state = new Map<string, MeshObject>();
  const next = async (): Promise<Change> => {
    const timeout = AbortSignal.timeout(DEADLINE_MILLISECONDS);
    const late = new Promise<never>((_, reject) => timeout.addEventListener("abort", () => reject(new Error("no change came in time"))));
    const result = await Promise.race([stream.next(), late]);
    if (result.done === true) throw new Error("the source ended");
    if (result.value.reset) state.clear();
    for (const object of result.value.put) state.set(keyOf(object), object);
    for (const key of result.value.remove) state.delete(key);
    return result.value;
  };
  const first = await next();
  return { dir, put, next, first, state, stop: () => stop.abort() };
}

test("the first batch is complete and later ones hold only what changed", async () => {
  const source = await watched({
    "a.yaml": `${pod("one")}\n---\n${pod("two")}`,
    "deep/er/b.json": JSON.stringify({ apiVersion: "v1", kind: "Node", metadata: { name: "n1" } }),
  });
  assert.equal(source.first.reset, true);
  assert.deepEqual([...source.state.keys()].sort(), ["Node//n1", "Pod/shop/one", "Pod/shop/two"]);
  source.put("a.yaml", `${pod("one")}\n---\n${pod("two", "status: {phase: Failed}")}`);
  const change = await source.next();
  assert.deepEqual([change.reset, change.put.map(keyOf), change.remove], [false, ["Pod/shop/two"], []]);
  source.stop();
});

test("new files in new directories, renames over a file, and removals are noticed", async () => {
  const source = await watched({ "a.yaml": pod("one") });
  source.put("new/dir/b.yaml", pod("two"));
  assert.deepEqual((await source.next()).put.map(keyOf), ["Pod/shop/two"]);
  source.put(".swap", pod("three"));
  renameSync(join(source.dir, ".swap"), join(source.dir, "a.yaml"));
  const swapped = await source.next();
  assert.deepEqual([swapped.put.map(keyOf), swapped.remove], [["Pod/shop/three"], ["Pod/shop/one"]]);
  unlinkSync(join(source.dir, "new/dir/b.yaml"));
  assert.deepEqual((await source.next()).remove, ["Pod/shop/two"]);
  source.stop();
});

test("a file that is truncated and then written never removes its objects in between", async () => {
  const source = await watched({ "a.yaml": pod("one") });
  for (let i = 0; i < 10; i++) source.put("a.yaml", "");
  source.put("a.yaml", `${pod("one")}\n---\n${pod("two")}`);
  const change = await source.next();
  assert.deepEqual([change.put.map(keyOf), change.remove], [["Pod/shop/two"], []]);
  source.stop();
});

test("a file whose writer was stopped between truncating and writing keeps its objects; one that stays empty gives them up", async () => {
  const source = await watched({ "a.yaml": pod("one") });
  source.put("a.yaml", "");
  await new Promise((resolve) => setTimeout(resolve, 200)); // many times the debounce: the writer's own pause, not a wait for us
  source.put("a.yaml", `${pod("one")}\n---\n${pod("two")}`);
  const change = await source.next();
  assert.deepEqual([change.put.map(keyOf), change.remove], [["Pod/shop/two"], []]);
  source.put("a.yaml", "");
  assert.deepEqual((await source.next()).remove.toSorted(), ["Pod/shop/one", "Pod/shop/two"]);
  source.stop();
});

test("a broken document is reported with file, line and field, and its last valid version stays in force", async () => {
  const valid = policy("p", "  action: DENY\n  rules:\n  - from:\n    - source:\n        namespaces: [a]\n");
  const source = await watched({ "p.yaml": valid, "z.yaml": pod("one") });
  const before = source.state.get("AuthorizationPolicy/shop/p");
  source.put("p.yaml", `${pod("zero")}\n---\n${valid.replace("namespaces: [a]", "namespaces: [a]\n        nameSpaces: [b]")}`);
  const change = await source.next();
  assert.deepEqual(change.put.map(keyOf), ["Pod/shop/zero"]);
  assert.deepEqual(
    change.faults.map(({ code, key, file, line, field }) => ({ code, key, file, line, field })),
    [
      {
        code: "E_SOURCE_UNSUPPORTED",
        key: "AuthorizationPolicy/shop/p",
        file: "p.yaml",
        line: 18,
        field: "spec.rules[0].from[0].source.nameSpaces",
      },
    ],
  );
  assert.equal(source.state.get("AuthorizationPolicy/shop/p"), before);
  source.put("p.yaml", valid);
  assert.deepEqual((await source.next()).faults, []);
  source.stop();
});

test("a file that is no YAML any more keeps what it gave, and its objects return to it when mended", async () => {
  const source = await watched({ "a.yaml": `${pod("one")}\n---\n${pod("two")}` });
  source.put("a.yaml", `${pod("one", "status: {phase: Failed}")}\n---\nkind: "Pod`);
  const change = await source.next();
  assert.deepEqual(
    [change.put.map(keyOf), change.remove, change.faults.map(({ code, line }) => [code, line])],
    [["Pod/shop/one"], [], [["E_SOURCE_INVALID", 7]]],
  );
  source.put("a.yaml", pod("one", "status: {phase: Failed}"));
  assert.deepEqual((await source.next()).remove, ["Pod/shop/two"]);
  source.stop();
});

test("of two documents of one object the first by path is in force, the other is reported", async () => {
  const source = await watched({ "b.yaml": pod("one", "status: {phase: Failed}"), "a.yaml": pod("one") });
  const one = source.state.get("Pod/shop/one");
  assert.ok(one?.kind === "Pod" && one.phase === "Running");
  assert.deepEqual(
    source.first.faults.map(({ file, code, key }) => [file, code, key]),
    [["b.yaml", "E_SOURCE_INVALID", "Pod/shop/one"]],
  );
  unlinkSync(join(source.dir, "a.yaml"));
  const change = await source.next();
  assert.deepEqual([change.put.map(keyOf), change.remove, change.faults], [["Pod/shop/one"], [], []]);
  source.stop();
});

test("a directory that goes away takes no object with it", async () => {
  const source = await watched({ "a.yaml": pod("one") });
  renameSync(source.dir, `${source.dir}-away`);
  roots.push(`${source.dir}-away`);
  const change = await source.next();
  assert.deepEqual([change.remove, change.faults.length], [[], 1]);
  renameSync(`${source.dir}-away`, source.dir);
  assert.deepEqual((await source.next()).faults, []);
  source.stop();
});

test("a directory that cannot be read at the start is refused with its name", async () => {
  const stream = directorySource("/nonexistent/mesh")(new AbortController().signal);
  await assert.rejects(stream[Symbol.asyncIterator]().next(), /\/nonexistent\/mesh.*ENOENT/);
});

test("a pod with a copied uid is named and not in force, for nodes could take it for the other", async () => {
  const uid = (name: string) => pod(name).replace(`name: ${name}`, `name: ${name}, uid: 7f`);
  const source = await watched({ "a.yaml": uid("one"), "b.yaml": `\n${uid("two")}`, "c.yaml": pod("three") });
  assert.deepEqual([...source.state.keys()].sort(), ["Pod/shop/one", "Pod/shop/three"]);
  assert.deepEqual(
    source.first.faults.map(({ key, file, line, field }) => [key, file, line, field]),
    [["Pod/shop/two", "b.yaml", 2, "metadata.uid"]],
  );
  source.put("b.yaml", pod("two"));
  assert.deepEqual((await source.next()).put.map(keyOf), ["Pod/shop/two"]);
  source.stop();
});

test("a pod in force keeps its uid when a copy turns up in an earlier file, and gives it up with its own document", async () => {
  const uid = (name: string) => pod(name).replace(`name: ${name}`, `name: ${name}, uid: 7f`);
  const source = await watched({ "b.yaml": uid("one") });
  source.put("a.yaml", uid("two"));
  const change = await source.next();
  assert.deepEqual([...source.state.keys()], ["Pod/shop/one"]);
  assert.deepEqual(
    change.faults.map(({ key, field }) => [key, field]),
    [["Pod/shop/two", "metadata.uid"]],
  );
  unlinkSync(join(source.dir, "b.yaml"));
  await source.next();
  assert.deepEqual([...source.state.keys()], ["Pod/shop/two"]);
  source.stop();
});
