import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { makeDirectory, requireDirectory } from "./directory.ts";
import { isMeshError } from "./error.ts";

function place(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "directory-"));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

const refusal = (message: RegExp) => (error: unknown) => {
  assert.ok(isMeshError(error) && error.code === "E_DIRECTORY_UNUSABLE", String(error));
  assert.match(error.message, message);
  return true;
};

test("a directory is made with its parents, for its owner alone, and making it again changes nothing", (t) => {
  const path = join(place(t), "a/b/c");
  for (let i = 0; i < 2; i++) makeDirectory("--state", path);
  assert.deepEqual([statSync(path).isDirectory(), statSync(path).mode & 0o777], [true, 0o700]);
});

test("a directory that cannot be made is refused at once with its path and option, also below /proc", (t) => {
  const file = join(place(t), "file");
  writeFileSync(file, "");
  for (const path of [file, join(file, "below"), "/proc/x", "/proc/x/y"])
    assert.throws(() => makeDirectory("--state", path), refusal(new RegExp(`^the directory ${path} \\(--state\\) cannot be made$`)));
});

test("a directory that is needed and absent is told apart from one that cannot be read", (t) => {
  const dir = place(t);
  requireDirectory("--mesh", dir);
  writeFileSync(join(dir, "file"), "");
  assert.throws(() => requireDirectory("--mesh", join(dir, "none")), refusal(/none \(--mesh\) does not exist$/));
  assert.throws(() => requireDirectory("--mesh", join(dir, "file")), refusal(/file \(--mesh\) cannot be read$/));
});
