// Refuses to start a cluster for which this machine has no inotify instances left: its programs would start, watch nothing and be slow in odd ways.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** Counted on a running cluster: 11 in the control plane, 8 on each node; the mesh's own daemon needs one more. */
const CONTROL_PLANE_INSTANCES = 12;
const NODE_INSTANCES = 9;
const LIMIT = "/proc/sys/fs/inotify/max_user_instances";

export function requireInotify(nodes: number): void {
  const limit = Number(readFileSync(LIMIT, "utf8"));
  const used = instances();
  const needed = CONTROL_PLANE_INSTANCES + nodes * NODE_INSTANCES;
  if (limit - used < needed)
    throw new Error(
      `a cluster of ${nodes} nodes needs ${needed} inotify instances and root has ${limit - used} of ${limit} left: take another cluster down (bin/cluster down), or raise fs.inotify.max_user_instances`,
    );
}

/** Those of root, which is who runs clusters: the limit is each user's own. */
function instances(): number {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        if (!/^Uid:\s+0\s/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return [];
        return readdirSync(`/proc/${pid}/fd`).filter((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`) === "anon_inode:inotify");
      } catch {
        return []; // ended while we looked
      }
    }).length;
}
