// Finds the processes of pods on a node by their cgroups: how a running pod leads to its network namespace.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as breathe } from "node:timers/promises";

/** Processes looked at before others get their turn: a file in /proc takes about 20 µs. */
const AT_ONCE = 200;

/**
 * The directory that kubelets make for a pod, whatever driver, cgroup version or runtime: ".../pod0a1b-…/…", "…-pod0a1b_….slice/…". Static
 * pods have 32 digits without a dash.
 */
const POD = /(?:^|[/-])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=\.slice|\/|$)/g;

/** Uids that the lines of /proc/PID/cgroup name; a cluster inside a pod has two, and which one is ours the caller finds out. */
export const podsOf = (cgroups: string): ReadonlySet<string> =>
  new Set(
    cgroups.split("\n").flatMap((line) => [...line.slice(line.indexOf("/")).matchAll(POD)].map(([, uid = ""]) => uid.replaceAll("_", "-"))),
  );

/** Process ids by pod, lowest first: the sandbox's own process is older than what runs in it. */
export async function processesOf(wanted: ReadonlySet<string>, proc: string): Promise<ReadonlyMap<string, readonly number[]>> {
  const found = new Map<string, number[]>();
  const pids = readdirSync(proc)
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
  for (const [i, pid] of pids.entries()) {
    if (i % AT_ONCE === AT_ONCE - 1) await breathe();
    for (const uid of podsOf(cgroupsOf(join(proc, String(pid))))) if (wanted.has(uid)) found.set(uid, [...(found.get(uid) ?? []), pid]);
  }
  return found;
}

/** A process that has ended meanwhile belongs to nobody. */
function cgroupsOf(process: string): string {
  try {
    return readFileSync(join(process, "cgroup"), "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH")) return "";
    throw error;
  }
}
