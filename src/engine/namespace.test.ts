import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { visitNamespace } from "./namespace.ts";

const visited = (path: string | null) => visitNamespace(path, async (open) => open !== null);

test("a path that a document names is opened only where a pod's namespace may be", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "trackbed-namespace-"));
  t.after(() => rmSync(dir, { recursive: true }));
  assert.equal(await visited(null), false);
  assert.equal(await visited(join(dir, "gone")), false);
  await assert.rejects(visited("/proc/self/ns/net"), { code: "E_CAPTURE_HOST_NETWORK" });
  await assert.rejects(visited(`/proc/${process.pid}/ns/net`), { code: "E_CAPTURE_HOST_NETWORK" });
  await assert.rejects(visited("netns/pod"), { code: "E_CAPTURE_NETNS_GONE" });
  await assert.rejects(visited(`${dir}/\0`), { code: "E_CAPTURE_NETNS_GONE" });
  execFileSync("mkfifo", [join(dir, "fifo")]);
  assert.equal(await visited(join(dir, "fifo")), true, "it is opened without waiting for a writer; the helper says what it is not");
});
