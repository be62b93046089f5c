import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isMeshError } from "#mesh/error.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "./resource.ts";
import { formatSnapshot, heldOf, parseSnapshot, readSnapshot, type Snapshot, writeSnapshot } from "./snapshot.ts";

const ROOTS = ["aa", "bb"];
const snapshot: Snapshot = {
  node: "node-a",
  roots: ROOTS,
  savedAt: new Date("2026-11-21T08:00:00.000Z"),
  settings: { trustDomain: "cluster.local", clusterDomain: "cluster.local", network: "", encryptSameNode: false },
  resources: new Map([
    [ADDRESS_TYPE, [{ name: "Kubernetes//Pod/shop/cart", version: "ab12", aliases: ["/10.0.0.1"], body: Buffer.from([0, 255, 10, 13]) }]],
    [AUTHORIZATION_TYPE, []],
  ]),
};

const invalid = (error: unknown): boolean => isMeshError(error) && error.code === "E_SNAPSHOT_INVALID";

test("a snapshot read back is the one that was written, in a file only root can read", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "snapshot-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "snapshot.json");
  assert.equal(await readSnapshot(path, "node-a", ROOTS), null);
  await writeFile(`${path}.next`, "left behind by a crash", { mode: 0o666 });
  await writeSnapshot(path, snapshot);
  await writeSnapshot(path, snapshot);
  assert.deepEqual(await readSnapshot(path, "node-a", ROOTS), snapshot);
  assert.deepEqual(heldOf(snapshot).get(ADDRESS_TYPE), new Map([["Kubernetes//Pod/shop/cart", "ab12"]]));
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(directory), ["snapshot.json"]);
  await writeFile(path, (await readFile(path)).subarray(0, 200));
  await assert.rejects(readSnapshot(path, "node-a", ROOTS), invalid);
});

test("a snapshot damaged in any byte, cut anywhere, or of another node is not used", () => {
  const text = formatSnapshot(snapshot);
  for (let i = 0; i < text.length - 1; i++) {
    const other = text[i] === "x" ? "y" : "x";
    assert.throws(() => parseSnapshot(text.slice(0, i) + other + text.slice(i + 1), "node-a", ROOTS), invalid, `byte ${i}`);
    assert.throws(() => parseSnapshot(text.slice(0, i), "node-a", ROOTS), invalid, `cut at ${i}`);
  }
  assert.throws(() => parseSnapshot(text, "node-b", ROOTS), invalid);
  assert.throws(() => parseSnapshot("", "node-a", ROOTS), invalid);
});

test("a snapshot of a newer format says so instead of being misread", () => {
  const newer = formatSnapshot(snapshot).replace('"format":2', '"format":3');
  assert.throws(
    () => parseSnapshot(newer, "node-a", ROOTS),
    (error) => invalid(error) && /format 3/.test(String(error)),
  );
});

test("a snapshot of another mesh is not used, one from before the roots were rotated is", () => {
  const text = formatSnapshot(snapshot);
  assert.deepEqual(parseSnapshot(text, "node-a", ["bb", "cc"]), snapshot);
  for (const roots of [["cc"], []])
    assert.throws(
      () => parseSnapshot(text, "node-a", roots),
      (error) => invalid(error) && /other root certificates/.test(String(error)),
    );
});
