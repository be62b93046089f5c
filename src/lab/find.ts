// Finds labs that run on this machine, from outside their sandboxes: through /proc, by the argv of their init processes.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { INIT_NAME, LAB_DIRECTORY } from "./sandbox.ts";

export type RunningLab = {
  /** Process id of the sandbox's init as counted here; null inside the sandbox itself. */
  readonly init: number | null;
  /** Path that leads to the lab's directory from here. */
  readonly directory: string;
  /** Its documents. */
  readonly mesh: string;
};

export function runningLabs(): RunningLab[] {
  const here = lab(null, LAB_DIRECTORY);
  return [...here, ...inits().flatMap((init) => lab(init, join("/proc", String(init), "root", LAB_DIRECTORY)))];
}

function lab(init: number | null, directory: string): RunningLab[] {
  try {
    return [{ init, directory, mesh: readFileSync(join(directory, "mesh"), "utf8") }];
  } catch {
    return []; // a sandbox without a lab, one that is still being built, or another user's
  }
}

/** Run directories of the lab's nodes that have a daemon. */
export function runDirectories({ directory }: RunningLab): string[] {
  return readdirSync(directory)
    .map((name) => join(directory, name))
    .filter((path) => existsSync(join(path, "admin.sock")))
    .sort();
}

function inits(): number[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .map(Number)
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0");
        if (argv[0] !== "bash" || argv[3] !== INIT_NAME) return false;
        return /^NSpid:.*\t1$/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
      } catch {
        return false; // ended while we looked
      }
    });
}
