// What we put on a node's disk goes again, and nothing else: checked on directories of the test's own.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { runNodeClean, runNodeProfile } from "./files.ts";

const PROFILE = "trackbed/engine.json";
let root: string;
let seccomp: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "node-files-"));
  seccomp = join(root, "seccomp");
  mkdirSync(seccomp);
});
afterEach(() => rmSync(root, { recursive: true }));

const put = () => runNodeProfile(seccomp, PROFILE, join(root, "run"));
const clean = () => runNodeClean([join(seccomp, "trackbed")], []);

test("the kubelet's directory of profiles goes with our profile where it came with us, also after a second engine", async () => {
  assert.equal(await put(), 0);
  assert.equal(await put(), 0);
  assert.ok(existsSync(join(seccomp, PROFILE)));
  assert.equal(clean(), 0);
  assert.deepEqual(readdirSync(root), ["run"]);
  assert.equal(clean(), 0, "again, with nothing there");
});

test("profiles of others stay, whether they came before us or after", async () => {
  await put();
  writeFileSync(join(seccomp, "later.json"), "{}");
  assert.equal(clean(), 0);
  assert.deepEqual(readdirSync(seccomp), ["later.json"]);
});

test("a directory in which others had profiles stays, also when they are gone", async () => {
  writeFileSync(join(seccomp, "earlier.json"), "{}");
  await put();
  rmSync(join(seccomp, "earlier.json"));
  assert.equal(clean(), 0);
  assert.deepEqual(readdirSync(seccomp), []);
});

test("a directory that has not our name is refused", () => {
  assert.throws(() => runNodeClean([seccomp], []), /only directories named trackbed/);
  assert.ok(existsSync(seccomp));
});
