// One world that ends as a whole: the current command runs again inside its own network, mount and process namespaces, so that however it
// ends, nothing of a lab is left on the machine.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { Socket } from "node:net";
import { constants } from "node:os";

const MARK = "TRACKBED_SANDBOX";
/** Name by which `trackbed` finds a running lab in /proc: argv[3] of the sandbox's init process. */
export const INIT_NAME = "trackbed-lab-init";
/** Where a lab keeps everything: made with the sandbox, on its private /run. */
export const LAB_DIRECTORY = "/run/trackbed-lab";
/** Pipe from the outer process: each line is a signal to pass on, its end is the end of everything. */
const LIFELINE = 3;
const FORWARDED: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
// /run is replaced whole: what a lab makes there must neither be seen nor outlive it. bash stays as init because it reaps orphans.
const INIT = `mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p -m 0700 /run/netns ${LAB_DIRECTORY} && ip link set lo up && "$@"; exit $?`;

/** Whether a sandbox was made for this very process: its parent is init, and init is ours. */
export function inOwnSandbox(): boolean {
  return process.ppid === 1 && process.env[MARK] === "1" && readFileSync("/proc/1/cmdline", "latin1").split("\0")[3] === INIT_NAME;
}

/**
 * Returns inside a sandbox that is this process's own. Outside, runs this same command in a new one, passes signals on and ends with its exit
 * code. Sandboxes nest: a test file that calls this inside the test runner's sandbox gets one more, so that labs never meet.
 */
export async function enterSandbox(): Promise<void> {
  if (inOwnSandbox()) return holdLifeline();
  const user = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
  const namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", ...user];
  const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  // Its own session: Ctrl-C reaches it once, through the lifeline, and not a second time from the terminal.
  const child = spawn("unshare", [...namespaces, "--", "bash", "-c", INIT, INIT_NAME, ...command], {
    stdio: ["inherit", "inherit", "inherit", "pipe"],
    env: { ...process.env, [MARK]: "1" },
    detached: true,
  });
  const lifeline = child.stdio[LIFELINE];
  if (lifeline && "write" in lifeline) {
    lifeline.on("error", () => child.kill("SIGKILL")); // nobody reads any more: what is left in there has to go
    for (const signal of FORWARDED) process.on(signal, () => lifeline.write(`${signal}\n`));
  }
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", (cause) => reject(new Error("cannot start unshare (Debian package util-linux)", { cause })));
    child.once("exit", (status, signal) => resolve(signal === null ? (status ?? 1) : 128 + constants.signals[signal]));
  });
  process.exit(code);
}

function holdLifeline(): void {
  const lifeline = new Socket({ fd: LIFELINE, readable: true, writable: false });
  const end = (): never => process.exit(129); // init ends with us and the kernel kills the rest
  lifeline.setEncoding("latin1");
  lifeline.on("data", (text) => {
    for (const line of String(text).split("\n")) {
      const signal = FORWARDED.find((name) => name === line);
      if (signal !== undefined) process.kill(process.pid, signal);
    }
  });
  lifeline.on("end", end);
  lifeline.on("error", end);
  lifeline.unref();
}
