import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { openTokens, type TokenFault } from "./tokens.ts";

function tokens(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "tokens-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const faults: TokenFault[] = [];
  const read = (node: string): string => readFileSync(join(dir, `${node}.token`), "utf8").trim();
  return { dir, faults, read, opened: openTokens(dir, (fault) => faults.push(fault)) };
}

test("every node gets a token of 32 random bytes that only root can read, and keeps it", async (t) => {
  const { dir, opened, read } = tokens(t);
  await opened.refresh(["node-a", "node-b"]);
  assert.deepEqual(readdirSync(dir).sort(), ["node-a.token", "node-b.token"]);
  assert.equal(statSync(join(dir, "node-a.token")).mode & 0o777, 0o600);
  const token = read("node-a");
  assert.equal(Buffer.from(token, "base64url").length, 32);
  assert.notEqual(token, read("node-b"));
  assert.deepEqual(await opened.refresh(["node-a", "node-b"]), []);
  assert.equal(read("node-a"), token);
  assert.equal(await opened.nodeOf(token), "node-a");
  assert.equal(await opened.nodeOf(read("node-b")), "node-b");
});

test("nothing but a whole token of a known node is accepted", async (t) => {
  const { opened, read } = tokens(t);
  await opened.refresh(["node-a"]);
  const token = read("node-a");
  for (const wrong of ["", "x", token.slice(1), `${token}x`, token.toUpperCase(), "x".repeat(100_000)])
    assert.equal(await opened.nodeOf(wrong), null, wrong.slice(0, 60));
  assert.deepEqual(await opened.refresh([]), ["node-a"]);
  assert.equal(await opened.nodeOf(token), null);
});

test("a token changed by hand takes the old one's place, and the node is named so that its streams end", async (t) => {
  const { dir, opened, read } = tokens(t);
  await opened.refresh(["node-a"]);
  const old = read("node-a");
  writeFileSync(join(dir, "node-a.token"), "n".repeat(43));
  assert.deepEqual(await opened.refresh(["node-a"]), ["node-a"]);
  assert.deepEqual([await opened.nodeOf(old), await opened.nodeOf("n".repeat(43))], [null, "node-a"]);
});

test("an exposed, short or linked token, or a name that is a path, shuts out that node only", async (t) => {
  const { dir, opened, faults, read } = tokens(t);
  await opened.refresh(["exposed", "short", "good"]);
  const exposed = read("exposed");
  chmodSync(join(dir, "exposed.token"), 0o644);
  writeFileSync(join(dir, "short.token"), "guess");
  writeFileSync(join(dir, "elsewhere"), "e".repeat(43), { mode: 0o600 });
  symlinkSync(join(dir, "elsewhere"), join(dir, "linked.token"));
  await opened.refresh(["exposed", "short", "linked", "../evil", "good"]);
  assert.deepEqual(
    faults.map(({ node }) => node),
    ["exposed", "short", "linked", "../evil"],
  );
  assert.deepEqual(await Promise.all([exposed, "guess", "e".repeat(43), read("good")].map((one) => opened.nodeOf(one))), [
    null,
    null,
    null,
    "good",
  ]);
});
