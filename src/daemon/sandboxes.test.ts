// Claims about whose network namespace is whose on a node, with its processes and namespaces as files.
import assert from "node:assert/strict";
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import { podsOf } from "./processes.ts";
import { createSandboxes } from "./sandboxes.ts";

const UID = "0a1b2c3d-1111-2222-3333-444455556666";
const OTHER = "ffffffff-1111-2222-3333-444455556666";

const pod = (uid: string, ...podIPs: string[]): Pod => podOf(meta("shop", uid.slice(0, 4), { uid }), { nodeName: "a", podIPs });

function node(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), "trackbed-sandboxes-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const [proc, root] = [join(directory, "proc"), join(directory, "root")];
  mkdirSync(proc);
  mkdirSync(root);
  const held = new Map<string, readonly string[] | Error>();
  const failures: string[] = [];
  const write = (path: string, text = ""): string => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  };
  return {
    proc,
    root,
    held,
    failures,
    sandboxes: createSandboxes({
      proc,
      root,
      addressesIn: async (path) => {
        const found = held.get(path) ?? null;
        if (found instanceof Error) throw found;
        return found;
      },
      failed: ({ metadata }, error) => failures.push(`${metadata.uid}: ${error instanceof Error ? error.message : String(error)}`),
    }),
    process: (pid: number, uid: string): string => {
      write(join(proc, `${pid}/cgroup`), `4:memory:/x/kubepods/burstable/pod${uid}/${"c".repeat(64)}\n0::/\n`);
      return write(join(proc, `${pid}/ns/net`));
    },
    /** The same namespace under a name, as runtimes bind it. */
    named: (netns: string, name: string): string => {
      mkdirSync(join(root, "run/netns"), { recursive: true });
      linkSync(netns, join(root, "run/netns", name));
      return join(root, "run/netns", name);
    },
  };
}

test("a pod's uid is found in the cgroups of every driver, version and runtime, and nowhere else", () => {
  const dashed = UID.replaceAll("-", "_");
  for (const path of [
    `/kubepods/burstable/pod${UID}/${"c".repeat(64)}`,
    `/kubepods/pod${UID}`,
    `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${dashed}.slice/cri-containerd-${"c".repeat(64)}.scope`,
    `/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod${dashed}.slice/crio-${"c".repeat(64)}.scope`,
    `/../../kubepods-pod${dashed}.slice/crio-conmon-x.scope`,
  ])
    assert.deepEqual([...podsOf(`0::${path}\n`)], [UID], path);
  assert.deepEqual([...podsOf(`1:cpu:/kubepods/pod${"0".repeat(32)}/c\n`)], ["0".repeat(32)]);
  assert.deepEqual([...podsOf(`0::/kubepods/pod${OTHER}/c/kubepods/pod${UID}/d\n`)], [OTHER, UID]);
  assert.deepEqual([...podsOf(`0::/system.slice/tripod${UID}/x\n0::/user.slice/podx\n`)], []);
});

test("a running pod is found by its processes, and the namespace's name is preferred to a process that may end", async (t) => {
  const { held, named, process: run, sandboxes } = node(t);
  const link = run(41, UID);
  held.set(link, ["10.0.0.7"]);
  assert.equal(await sandboxes.seek([pod(UID, "10.0.0.7")]), true);
  assert.equal(sandboxes.of(pod(UID, "10.0.0.7"), true).netns, link);
  const second = node(t);
  const name = second.named(second.process(41, UID), "cni-1");
  second.held.set(name, ["10.0.0.7"]);
  await second.sandboxes.seek([pod(UID, "10.0.0.7")]);
  assert.equal(second.sandboxes.of(pod(UID, "10.0.0.7"), true).netns, name);
  assert.equal(named(link, "cni-1").endsWith("cni-1"), true);
});

test("a pod of which nothing runs, as after a reboot, is vacant until something does", async (t) => {
  const { sandboxes } = node(t);
  const one = pod(UID, "10.0.0.7");
  const isVacant = (): boolean => sandboxes.of(one, true).vacant;
  assert.equal(isVacant(), false, "it was not looked for yet");
  await sandboxes.seek([one]);
  assert.equal(isVacant(), true);
  sandboxes.announce({ podUid: UID, containerId: "c", netns: "/run/netns/cni-1", ips: ["10.0.0.8"] });
  assert.equal(isVacant(), false, "the runtime made it a sandbox");
  const second = node(t);
  await second.sandboxes.seek([one]);
  second.process(41, UID);
  await second.sandboxes.seek([one]);
  assert.equal(second.sandboxes.of(one, true).vacant, false, "it runs somewhere, in the mesh or not");
});

test("a namespace without the pod's address is not the pod's, whoever runs in it", async (t) => {
  const { held, process: run, sandboxes } = node(t);
  held.set(run(41, UID), ["10.0.0.9", "fd00::9"]);
  assert.equal(await sandboxes.seek([pod(UID, "10.0.0.7", "fd00::7")]), false);
  assert.equal(sandboxes.of(pod(UID, "10.0.0.7"), true).netns, null);
  // A process of the pod with a namespace of its own, beside the pod's.
  held.set(run(52, UID), ["FD00:0::7"]);
  assert.equal(await sandboxes.seek([pod(UID, "10.0.0.7", "fd00::7")]), true);
});

test("a pod without an address is not told apart from others and waits", async (t) => {
  const { held, process: run, sandboxes } = node(t);
  held.set(run(41, UID), ["10.0.0.7"]);
  assert.equal(await sandboxes.seek([pod(UID)]), false);
});

test("what the runtime announced beats the search, and an address in an old status", async (t) => {
  const { root, sandboxes } = node(t);
  sandboxes.announce({ podUid: UID, containerId: "c1", netns: "/run/netns/cni-1", ips: ["10.0.0.8", "fd00::8"] });
  const { netns, addresses, left } = sandboxes.of(pod(UID, "10.0.0.7"), true);
  assert.deepEqual([netns, addresses, left], [join(root, "run/netns/cni-1"), ["10.0.0.8", "fd00::8"], false]);
  // A status that knows one of them may know more.
  assert.deepEqual(sandboxes.of(pod(UID, "10.0.0.8", "10.1.0.8"), true).addresses, ["10.0.0.8", "fd00::8", "10.1.0.8"]);
});

test("only the sandbox that the pod has now can be released", (t) => {
  const { sandboxes } = node(t);
  const sandbox = (containerId: string) => ({ podUid: UID, containerId, netns: `/run/netns/${containerId}`, ips: ["10.0.0.8"] });
  sandboxes.announce(sandbox("old"));
  sandboxes.announce(sandbox("new"));
  assert.equal(sandboxes.release(sandbox("old")), false);
  assert.equal(sandboxes.of(pod(UID), true).left, false);
  assert.equal(sandboxes.release(sandbox("new")), true);
  assert.deepEqual([sandboxes.of(pod(UID), true).left, sandboxes.of(pod(UID), true).netns], [true, null]);
  sandboxes.announce(sandbox("third"));
  assert.equal(sandboxes.of(pod(UID), true).left, false);
});

test("a sandbox that was found is released by the namespace that the runtime names", async (t) => {
  const { held, named, process: run, sandboxes } = node(t);
  const name = named(run(41, UID), "cni-1");
  named(run(42, OTHER), "cni-2");
  held.set(name, ["10.0.0.7"]);
  await sandboxes.seek([pod(UID, "10.0.0.7")]);
  assert.equal(sandboxes.release({ podUid: UID, containerId: "c", netns: "/run/netns/cni-2", ips: [] }), false);
  assert.equal(sandboxes.release({ podUid: UID, containerId: "c", netns: "/run/netns/cni-1", ips: [] }), true);
});

test("a pod that never was in the mesh is not entered, one that may hold something of ours is", async (t) => {
  const { held, process: run, sandboxes } = node(t);
  const link = run(41, UID);
  held.set(link, ["10.0.0.7"]);
  await sandboxes.seek([pod(UID, "10.0.0.7")]);
  assert.equal(sandboxes.of(pod(UID, "10.0.0.7"), false).netns, link, "found at the start: an earlier life may have captured it");
  sandboxes.announce({ podUid: OTHER, containerId: "c", netns: "/run/netns/x", ips: ["10.0.0.9"] });
  assert.equal(sandboxes.of(pod(OTHER), false).netns, null);
  assert.notEqual(sandboxes.of(pod(OTHER), true).netns, null);
  assert.notEqual(sandboxes.of(pod(OTHER), false).netns, null, "it was in the mesh: leaving needs its namespace");
});

test("a path that went astray is sought anew, and pods that are gone are forgotten", async (t) => {
  const { held, process: run, sandboxes } = node(t);
  const link = run(41, UID);
  held.set(link, ["10.0.0.7"]);
  await sandboxes.seek([pod(UID, "10.0.0.7")]);
  sandboxes.lost(UID);
  assert.equal(sandboxes.of(pod(UID, "10.0.0.7"), true).netns, null);
  assert.equal(await sandboxes.seek([pod(UID, "10.0.0.7")]), true);
  sandboxes.keep(new Set());
  assert.equal(sandboxes.of(pod(UID, "10.0.0.7"), false).netns, null);
});

test("a namespace that cannot be looked into keeps no other pod from being found, and is told once for each reason", async (t) => {
  const { sandboxes, process, held, failures } = node(t);
  const first = process(100, OTHER);
  held.set(first, new Error("permission denied"));
  held.set(process(200, UID), ["10.0.0.7"]);
  const pods = [pod(OTHER, "10.0.0.8"), pod(UID, "10.0.0.7")];
  assert.equal(await sandboxes.seek(pods), true);
  assert.notEqual(sandboxes.of(pod(UID, "10.0.0.7"), true).netns, null);
  await sandboxes.seek(pods);
  assert.deepEqual(failures, [`${OTHER}: permission denied`]);
  held.set(process(300, OTHER), ["10.0.0.8"]);
  assert.equal(await sandboxes.seek(pods), true, "another process of the pod leads there");
  assert.equal(failures.length, 1);
});
