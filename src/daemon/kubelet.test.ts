// Claims about which cgroup is the kubelet's, in directories that look like a node's.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { kubeletCgroup } from "./kubelet.ts";

const POD = "/kubepods/besteffort/pod0a1b2c3d-0000-4000-8000-000000000001/c1";
const UNIT = "/system.slice/kubelet.service";
const mayEnter = spawnSync("nsenter", ["--cgroup=/proc/self/ns/cgroup", "--", "true"]).status === 0;
const skip = mayEnter ? false : "nsenter --cgroup is not allowed here";

/** Processes called kubelet, by their process ids. */
function machine(t: TestContext, kubelets: Readonly<Record<number, string>>) {
  const base = mkdtempSync(join(tmpdir(), "trackbed-kubelet-"));
  t.after(() => rmSync(base, { recursive: true }));
  const [proc, root] = [join(base, "proc"), join(base, "root")];
  const put = (path: string, content: string): void => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
  };
  mkdirSync(join(proc, "1/ns"), { recursive: true });
  symlinkSync("/proc/self/ns/cgroup", join(proc, "1/ns/cgroup"));
  put(join(root, "sys/fs/cgroup/cgroup.controllers"), "cpu\n");
  for (const [pid, group] of Object.entries(kubelets)) {
    put(join(proc, pid, "comm"), "kubelet\n");
    put(join(proc, pid, "cgroup"), `0::${group}\n`);
    mkdirSync(join(root, "sys/fs/cgroup", group), { recursive: true });
  }
  return { find: () => kubeletCgroup(proc, root), path: (group: string) => join(root, "sys/fs/cgroup", group) };
}

test("the kubelet is found by its name, with the depth and number of its cgroup", { skip }, async (t) => {
  const { find, path } = machine(t, { 900: UNIT });
  assert.deepEqual(await find(), { path: path(UNIT), level: 2, inode: statSync(path(UNIT), { bigint: true }).ino });
});

test("a process in a pod that calls itself kubelet is not it, and opens no pod's probe ports", { skip }, async (t) => {
  const both = machine(t, { 200: POD, 900: UNIT });
  assert.equal((await both.find())?.path, both.path(UNIT));
  assert.equal(await machine(t, { 200: POD }).find(), null);
});
