// Daemon and engine side by side on one node: two independent children, each restarted when it dies, ended together.
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { findBinary } from "#engine/binary.ts";

export type LaunchOptions = {
  readonly node: string;
  readonly mesh: string;
  readonly run: string;
  /** https://ADDR:15012 */
  readonly control: string;
  readonly root: string;
  readonly token: string;
  /** DNS domain of services until control says it for the first time. */
  readonly clusterDomain?: string;
  /** Path of trackbed-engine; found by itself when missing. */
  readonly engine?: string;
  /** host:port of the daemon's /healthz/ready and of the engine's metrics. */
  readonly health?: string;
  readonly metrics?: string;
  /** Worker threads of the engine. */
  readonly workers?: number;
  /** Put before both command lines, for example ["nsenter", "--net=/run/netns/node-a"]. */
  readonly within?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Every line of both children, without its newline. Default: standard output, prefixed "daemon| " and "engine| ". */
  readonly onLine?: (who: Who, line: string) => void;
  /** A child ended and will be started again, or (code 64) will not. */
  readonly onExit?: (who: Who, how: Exit) => void;
};

export type Who = "daemon" | "engine";
export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly restartInMilliseconds: number | null };

export type Launcher = {
  /** Process id now, null while it is down. With `within`, of the outermost process that was not replaced by exec. */
  pid(who: Who): number | null;
  restarts(who: Who): number;
  /** Resolves with 64 when a child refused its command line, with 0 after `stop`. */
  readonly ended: Promise<number>;
  /** SIGTERM to both, SIGKILL to what is left after 5 s. */
  stop(): Promise<void>;
};

/** First pause before a restart; doubles up to the last. Short, because captured pods refuse traffic while the engine is away. */
const FIRST_PAUSE_MS = 50;
const LAST_PAUSE_MS = 2000;
/** A child that lived this long was healthy: its next death starts with the first pause again. */
const HEALTHY_MS = 10_000;
const STOP_MS = 5000;
/** sysexits: the command line is wrong; starting it again cannot help. */
const EXIT_USAGE = 64;

/** The daemon's young generation: it makes little garbage, and V8's 16 MiB of it would be a tenth of its memory. */
const DAEMON_FLAGS = ["--max-semi-space-size=1"];
/** With its modules compiled already, a daemon that starts again needs neither the time nor the 25 MiB of the type stripper. */
const COMPILED = "node-cache";

/** What a child's death means: the pause before it starts again, null for never. */
export function pauseAfter(previous: number | null, livedMs: number, code: number | null): number | null {
  if (code === EXIT_USAGE) return null;
  return previous === null || livedMs >= HEALTHY_MS ? FIRST_PAUSE_MS : Math.min(previous * 2, LAST_PAUSE_MS);
}

export function commandLines(options: LaunchOptions): Record<Who, string[]> {
  const engine = options.engine ?? findBinary("trackbed-engine", options.env ?? process.env);
  const daemon = fileURLToPath(new URL("../daemon/main.ts", import.meta.url));
  const { node, mesh, run, control, root, token } = options;
  const named = Object.entries({ node, mesh, run, control, root, token }).flatMap(([flag, value]) => [`--${flag}`, value]);
  const health = options.health === undefined ? [] : ["--health", options.health];
  const domain = options.clusterDomain === undefined ? [] : ["--cluster-domain", options.clusterDomain];
  const metrics = options.metrics === undefined ? [] : ["--metrics", options.metrics];
  const workers = options.workers === undefined ? [] : ["--workers", String(options.workers)];
  const within = options.within ?? [];
  return {
    daemon: [...within, process.execPath, ...DAEMON_FLAGS, daemon, ...named, ...domain, ...health],
    engine: [...within, engine, "--run", run, ...metrics, ...workers],
  };
}

export function launch(options: LaunchOptions): Launcher {
  const onLine = options.onLine ?? ((who, line) => process.stdout.write(`${who}| ${line}\n`));
  const lines = commandLines(options);
  const ended = Promise.withResolvers<number>();
  const state = { stopping: false };
  const keep = (who: Who): Kept => keepAlive(who, lines[who], options, onLine, state, () => ended.resolve(EXIT_USAGE));
  const kept: Record<Who, Kept> = { daemon: keep("daemon"), engine: keep("engine") };
  const stop = async (): Promise<void> => {
    state.stopping = true;
    await Promise.all([kept.daemon.end(), kept.engine.end()]);
    ended.resolve(0);
  };
  return { pid: (who) => kept[who].pid(), restarts: (who) => kept[who].restarts(), ended: ended.promise, stop };
}

const environment = ({ env = process.env, run }: LaunchOptions): NodeJS.ProcessEnv => ({ NODE_COMPILE_CACHE: join(run, COMPILED), ...env });

type Kept = { pid(): number | null; restarts(): number; end(): Promise<void> };

function keepAlive(
  who: Who,
  line: readonly string[],
  options: LaunchOptions,
  onLine: (who: Who, line: string) => void,
  state: { stopping: boolean },
  refused: () => void,
): Kept {
  let child: ChildProcess | null = null;
  let gone = Promise.resolve();
  let pause: number | null = null;
  let restarts = 0;
  let timer: NodeJS.Timeout | undefined;
  const start = (): void => {
    const [command = "", ...args] = line;
    const began = Date.now();
    const one = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env: environment(options) });
    child = one;
    for (const stream of [one.stdout, one.stderr]) createInterface({ input: stream }).on("line", (text) => onLine(who, text));
    const exit = Promise.withResolvers<void>();
    gone = exit.promise;
    // "error" without "exit" means that the program could not be started at all: the same as a death, with the reason in the log.
    one.on("error", (error) => {
      onLine(who, `could not be started: ${error.message}`);
      if (one.pid === undefined) over(null, null);
    });
    one.on("exit", (code, signal) => over(code, signal));
    const over = (code: number | null, signal: NodeJS.Signals | null): void => {
      child = null;
      exit.resolve();
      if (state.stopping) return;
      pause = pauseAfter(pause, Date.now() - began, code);
      options.onExit?.(who, { code, signal, restartInMilliseconds: pause });
      if (pause === null) refused();
      else {
        onLine(who, `ended with ${signal ?? code}; starts again in ${pause} ms`);
        restarts++;
        timer = setTimeout(start, pause);
      }
    };
  };
  const end = async (): Promise<void> => {
    clearTimeout(timer);
    const last = child;
    if (last === null) return;
    last.kill("SIGTERM");
    const force = setTimeout(() => last.kill("SIGKILL"), STOP_MS);
    await gone;
    clearTimeout(force);
  };
  start();
  return { pid: () => child?.pid ?? null, restarts: () => restarts, end };
}
