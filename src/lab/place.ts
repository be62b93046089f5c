// Commands inside a namespace: the prefix that enters it, running to the end, and starting what goes on.
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { ExecOptions, Output, Place } from "./api.ts";

const EXEC_DEADLINE_MS = 10_000;
// A command that prints without end must not fill our memory; tests read far less.
const OUTPUT_BYTES = 4 << 20;

// The pinned Node before any other.
const environment = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"}` };

/** Everything a lab started and that has not ended, so that stop() can end it. */
export type Children = {
  /** Started with the given stdio; a file name stands for "append both outputs to it". */
  start(command: readonly string[], output: "pipe" | { readonly log: string }, env?: Readonly<Record<string, string>>): ChildProcess;
  endAll(graceMs: number): Promise<void>;
};

export function newChildren(): Children {
  const live = new Set<ChildProcess>();
  return {
    start(command, output, env = {}) {
      const [program, ...args] = command;
      if (program === undefined) throw new Error("a command needs at least a program");
      const log = output === "pipe" ? undefined : openSync(output.log, "a");
      const stdio: StdioOptions = log === undefined ? "pipe" : ["ignore", log, log];
      const child = spawn(program, args, { stdio, env: { ...environment, ...env } });
      if (log !== undefined) closeSync(log);
      live.add(child);
      child.once("close", () => live.delete(child));
      child.on("error", () => live.delete(child)); // told to whoever waits for this child: see ended()
      return child;
    },
    async endAll(graceMs) {
      const ends = [...live].map((child) => end(child, "SIGTERM", graceMs));
      await Promise.all(ends);
    },
  };
}

/** Signals and waits; SIGKILL after the grace. */
export async function end(child: ChildProcess, signal: NodeJS.Signals, graceMs: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const over = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
  await over;
  clearTimeout(timer);
}

export function newPlace(name: string, netns: string, enter: readonly string[], children: Children): Place {
  const exec = (command: readonly string[], options: ExecOptions = {}): Promise<Output> =>
    collect(children.start([...enter, ...command], "pipe", options.env), options, `${name}: ${command.join(" ")}`);
  return {
    name,
    netns,
    exec,
    async run(command, options) {
      const { code, signal, stdout, stderr } = await exec(command, options);
      if (code !== 0) throw new Error(`${name}: ${command.join(" ")}: ${signal ?? `exit ${code}`}: ${stderr.trim() || stdout.trim()}`);
      return stdout;
    },
    spawn: (command, options = {}) => children.start([...enter, ...command], "pipe", options.env),
  };
}

function collect(child: ChildProcess, { timeoutMs = EXEC_DEADLINE_MS, input = "" }: ExecOptions, what: string): Promise<Output> {
  return new Promise((resolve, reject) => {
    let stdout = "";
    let stderr = "";
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      for (const pipe of [child.stdout, child.stderr]) pipe?.destroy(); // what the command started may hold them open
    }, timeoutMs);
    const take = (text: string, more: string): string => (text.length < OUTPUT_BYTES ? text + more : text);
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      stdout = take(stdout, text);
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      stderr = take(stderr, text);
    });
    child.once("error", (cause) => reject(new Error(`cannot start ${what}`, { cause })));
    child.once("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, stdout, stderr });
    });
    child.stdin?.on("error", () => child.stdin?.destroy()); // the command ended without reading its input: its exit code tells
    child.stdin?.end(input);
  });
}

/** The last lines of a log under its name, empty when it says nothing. */
export function tail(file: string, lines = 30): string {
  if (!existsSync(file)) return "";
  const text = readFileSync(file, "utf8").trimEnd();
  return text === "" ? "" : `--- ${file}\n${text.split("\n").slice(-lines).join("\n")}`;
}
