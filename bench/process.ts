// What processes cost, read from /proc.
import { readdirSync, readFileSync } from "node:fs";

/** Kernel ticks per second of /proc/PID/stat; 100 on every Linux that Node runs on (sysconf(_SC_CLK_TCK)). */
const TICKS = 100;

/** User and system CPU seconds since the processes started, of ended threads too. Resolution 10 ms: runs are seconds long. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + ticks(pid), 0) / TICKS;
}

/** The same of processes whose threads all live on, to the nanosecond: for proxies that use a tenth of a core. */
export function fineCpuSeconds(pids: readonly number[]): number {
  const threads = pids.flatMap((pid) => readdirSync(`/proc/${pid}/task`).map((tid) => `/proc/${pid}/task/${tid}/schedstat`));
  return threads.reduce((sum, file) => sum + Number(readFileSync(file, "latin1").split(" ")[0]), 0) / 1e9;
}

/** Fields of /proc/PID/stat from the third on. The name in brackets may hold spaces: count from behind it. */
function stat(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

/** utime and stime are fields 14 and 15 (proc(5)). */
function ticks(pid: number): number {
  const fields = stat(pid);
  return Number(fields[11]) + Number(fields[12]);
}

/** The process and the processes that it started: the workers of a proxy that has some. */
export function withChildren(pid: number): number[] {
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((other) => parent(other) === pid);
  return [pid, ...children];
}

function parent(pid: number): number | null {
  try {
    return Number(stat(pid)[1]);
  } catch {
    return null; // ended while we looked
  }
}

/** Anonymous resident memory in bytes: what the process holds itself, without mapped files. */
export const anonymousMemory = (pids: readonly number[]): number => sum(pids.map((pid) => status(pid, "RssAnon")));

/** All resident memory of the largest of the processes, in bytes. */
export const largestResident = (pids: readonly number[]): number => Math.max(0, ...pids.map((pid) => status(pid, "VmRSS")));

export const descriptors = (pids: readonly number[]): number => sum(pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length));

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

function status(pid: number, field: "RssAnon" | "VmRSS"): number {
  const text = readFileSync(`/proc/${pid}/status`, "latin1");
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024;
}
