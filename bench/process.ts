// What processes cost, read from /proc.
import { readFileSync } from "node:fs";

/** Kernel ticks per second of /proc/PID/stat; 100 on every Linux that Node runs on (sysconf(_SC_CLK_TCK)). */
const TICKS = 100;

/** User and system CPU seconds since the processes started, of ended threads too. Resolution 10 ms: runs are seconds long. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + ticks(pid), 0) / TICKS;
}

function ticks(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // The name in brackets may hold spaces: count from behind it. utime and stime are fields 14 and 15 (proc(5)).
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** Anonymous resident memory in bytes: what the process holds itself, without mapped files. */
export function anonymousMemory(pids: readonly number[]): number {
  return pids.reduce(
    (sum, pid) => sum + Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? 0) * 1024,
    0,
  );
}
