// Finds the kubelet's cgroup, by which its probes are told from everybody else's connections.
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { podsOf } from "./processes.ts";

const run = promisify(execFile);

export type KubeletCgroup = {
  /** A path to the directory that this process can follow. */
  readonly path: string;
  /** Its depth below the root of the hierarchy. */
  readonly level: number;
  /** Rules hold this number, not the path: a unit that is started again has another. */
  readonly inode: bigint;
};

const LOOK_MS = 2000;

/** The kubelet, or the single process of a distribution that contains it. */
const NAMES: readonly string[] = ["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "rke2", "hyperkube"];

/** Null where there is no cgroup v2 hierarchy, or the kubelet is in its root, which cannot be matched. */
export async function kubeletCgroup(proc = "/proc", root = "/proc/1/root"): Promise<KubeletCgroup | null> {
  const hierarchy = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
    .map((one) => join(root, one))
    .find((one) => existsSync(join(one, "cgroup.controllers")));
  if (hierarchy === undefined) return null;
  const group = await groupOf(proc);
  if (group === null || group === "/" || group.includes("/..")) return null;
  const path = join(hierarchy, group);
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? null : { path, level: group.split("/").length - 1, inode: found.ino };
}

/** As the node's first process sees it: our own view may begin further down. */
async function groupOf(proc: string): Promise<string | null> {
  for (const pid of readdirSync(proc)) {
    if (!/^[0-9]+$/.test(pid) || !NAMES.includes(nameOf(join(proc, pid)))) continue;
    const look = [`--cgroup=${join(proc, "1/ns/cgroup")}`, "--", "grep", "^0::", join(proc, pid, "cgroup")];
    const { stdout } = await run("nsenter", look, { timeout: LOOK_MS }).catch(() => ({ stdout: "" })); // ended meanwhile, or without cgroup v2
    // A process in a pod may give itself any name; as the kubelet it would pass on the probe ports of others.
    if (stdout !== "" && podsOf(stdout).size === 0) return stdout.trim().slice("0::".length);
  }
  return null;
}

/** A process that has ended meanwhile has no name. */
function nameOf(process: string): string {
  try {
    return readFileSync(join(process, "comm"), "utf8").trim();
  } catch {
    return "";
  }
}
