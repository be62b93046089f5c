// How long the kernel kept threads waiting for a processor: what a busy machine adds to a measured time.
import { readdirSync, readFileSync } from "node:fs";

/** Milliseconds that the living threads of these processes have waited on run queues since they began. */
function waited(pids: readonly number[]): Map<string, number> {
  const all = new Map<string, number>();
  for (const pid of pids)
    try {
      for (const thread of readdirSync(`/proc/${pid}/task`)) {
        const [, nanoseconds = "0"] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ");
        all.set(`${pid}/${thread}`, Number(nanoseconds) / 1e6);
      }
    } catch {
      // it ended while we looked: what it waited is not counted, which is the strict side
    }
  return all;
}

/**
 * Starts the count for the processes that a measured time depends on; the function returned gives the milliseconds they have waited since then,
 * those that began in between included. Next to nothing on an idle machine.
 */
export function countQueued(pids: () => readonly number[]): () => number {
  const before = waited(pids());
  return () => [...waited(pids())].reduce((sum, [thread, total]) => sum + total - (before.get(thread) ?? 0), 0);
}
