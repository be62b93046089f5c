// Claims about what a daemon remembers of the namespaces it captured.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { newRecord } from "./pod.ts";
import { loadPromises } from "./promises.ts";
import { specimen } from "./specimen.ts";

const spec = specimen("u");
const captured = { bootId: "boot", cookie: 2n ** 63n };

async function file(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "promises-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "captured.json");
}
const strict = (error: Error): void => assert.fail(error);

test("a captured namespace is remembered, an absent pod is not", async (t) => {
  const path = await file(t);
  const promises = await loadPromises(path, "boot", strict);
  promises.note([newRecord(spec, captured), newRecord({ ...spec, uid: "other" }, null)]);
  await promises.flush();
  const { kept } = await loadPromises(path, "boot", strict);
  assert.deepEqual(
    kept.map((one) => [one.spec.uid, one.spec.netns, one.captured]),
    [["u", "/netns/u", captured]],
  );
});

test("another boot owes nothing", async (t) => {
  const path = await file(t);
  const promises = await loadPromises(path, "boot", strict);
  promises.note([newRecord(spec, captured)]);
  await promises.flush();
  assert.deepEqual((await loadPromises(path, "next boot", strict)).kept, []);
});

test("the last of many changes is what is on disk", async (t) => {
  const path = await file(t);
  const promises = await loadPromises(path, "boot", strict);
  for (let i = 0; i < 50; i++) promises.note([newRecord({ ...spec, uid: `u${i}` }, captured)]);
  await promises.flush();
  assert.match(await readFile(path, "utf8"), /"u49"/);
});

test("a damaged file is told and not used", async (t) => {
  const path = await file(t);
  for (const text of [
    "{",
    '{"kind":"trackbed-captured","format":2,"pods":[]}',
    '{"kind":"trackbed-captured","format":1,"pods":[{"uid":1}]}',
  ]) {
    await writeFile(path, text);
    const told: string[] = [];
    const { kept } = await loadPromises(path, "boot", (error) => told.push(error.message));
    assert.deepEqual(kept, []);
    assert.equal(told.length, 1, text);
  }
});
