// Runs one program inside a network namespace: no shell, a deadline, bounded output, and an error that says what it said.
import { spawn } from "node:child_process";
import { meshError } from "#mesh/error.ts";

/** A transaction takes milliseconds; what takes longer hangs on a lock and is tried again. */
const DEADLINE_MILLISECONDS = 2000;
/** A ruleset of a pod is kilobytes; a larger one is not a pod's. */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

/**
 * iptables-legacy reads the whole table, changes it and writes it back, under a lock that is one file for all namespaces and often not writable.
 * The namespace itself is a better one: as many locks as there are tables to protect, and always there.
 */
const OWN_LOCK = "/proc/self/ns/net";

export type Output = { readonly code: number; readonly stdout: string; readonly stderr: string };

/** Rejects only when the program could not run to its end; a code other than 0 is the caller's to judge. */
export function execute(netns: string, command: readonly string[], input = "", lock = OWN_LOCK): Promise<Output> {
  const { promise, resolve, reject } = Promise.withResolvers<Output>();
  // "self" would be nsenter.
  const path = netns.replace(/^\/proc\/self\//, `/proc/${process.pid}/`);
  const child = spawn("nsenter", [`--net=${path}`, "--", ...command], {
    stdio: "pipe",
    env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C", XTABLES_LOCKFILE: lock },
  });
  const fail = (reason: string, cause?: unknown): void => {
    child.kill("SIGKILL");
    reject(meshError("E_CAPTURE_RULES_FAILED", `${command.join(" ")} in ${netns}: ${reason}`, cause));
  };
  const timer = setTimeout(() => fail(`no answer within ${DEADLINE_MILLISECONDS} ms`), DEADLINE_MILLISECONDS);
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (chunk: string) => {
      texts[name] += chunk;
      if (texts[name].length > MAX_OUTPUT_BYTES) fail(`it wrote more than ${MAX_OUTPUT_BYTES} bytes`);
    });
  }
  child.on("error", (error) => fail("it cannot be started", error));
  child.on("close", (code, signal) => {
    clearTimeout(timer);
    if (code === null) fail(`it was ended by ${signal}`);
    else resolve({ code, ...texts });
  });
  child.stdin.on("error", () => undefined); // EPIPE of a program that refused early: its code and stderr say why
  child.stdin.end(input);
  return promise;
}

/** Like execute, but a code other than 0 rejects with what the program wrote. */
export async function run(netns: string, command: readonly string[], input = "", lock = OWN_LOCK): Promise<string> {
  const { code, stdout, stderr } = await execute(netns, command, input, lock);
  if (code === 0) return stdout;
  throw meshError(
    "E_CAPTURE_RULES_FAILED",
    `${command.join(" ")} in ${netns} ended with ${code}: ${stderr.trim() || "it wrote no reason"}`,
  );
}
