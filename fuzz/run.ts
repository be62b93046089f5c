// `make fuzz` and the long run: libFuzzer on each target, two at a time, each for so many seconds of CPU; ends with what each one did.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cpuSeconds } from "../bench/process.ts";
import { columns } from "../bench/table.ts";
import { type Report, readReport, TARGETS } from "./report.ts";

/** As many as the machine has cores: a fuzzer never waits. */
const AT_ONCE = 2;
/** How often the CPU time is looked at. */
const LOOK_MS = 200;
/** A machine that gives a process less than this part of a core is too busy to wait for, unless told otherwise: CI would not end in time. */
const LEAST_SHARE = 0.5;
/** One input for longer than this, or with more memory, is a finding: a peer must not cost that much. */
const INPUT_SECONDS = 5;
const MEMORY_MB = 1024;
/** Scripts of several thousand steps; more makes each run slower and finds nothing else. */
const INPUT_BYTES = 4096;
const USAGE = `usage: node fuzz/run.ts [--cpu-seconds N] [--wall-seconds N] [--seed N] [TARGET]...

--cpu-seconds N   for each target, 60
--wall-seconds N  at most, on a machine that has other work too (twice the CPU seconds)
--seed N          of the search, for the same one again (by the clock)
TARGET           ${TARGETS.join(", ")} (default: all)`;

type Run = Report & { readonly target: string; readonly cpu: number; readonly ok: boolean; readonly enough: boolean };

const root = join(import.meta.dirname, "..");
const cache = join(root, ".cache/fuzz");

type Budget = { readonly cpu: number; readonly wall: number; readonly seed: number };

async function fuzz(target: string, { cpu: seconds, wall, seed }: Budget): Promise<Run> {
  const [corpus, seeds, artifacts, log] = ["corpus", "seeds", "found", "log"].map((name) => join(cache, name, target)) as [
    string,
    string,
    string,
    string,
  ];
  for (const directory of [corpus, seeds, artifacts, join(log, "..")]) mkdirSync(directory, { recursive: true });
  const findings = join(root, "fuzz/findings", target);
  const limits = {
    artifact_prefix: `${artifacts}/`,
    timeout: INPUT_SECONDS,
    rss_limit_mb: MEMORY_MB,
    max_len: INPUT_BYTES,
    max_total_time: Math.ceil(wall),
    seed,
    print_final_stats: 1,
    use_value_profile: 1,
  };
  const flags = Object.entries(limits).map(([name, value]) => `-${name}=${value}`);
  const directories = [corpus, seeds, findings].filter((directory) => existsSync(directory));
  const child = spawn(join(cache, "target/bin", target), [...flags, ...directories], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, TRACKBED_FUZZ_SEEDS: seeds },
  });
  const output = createWriteStream(log);
  child.stderr.pipe(output);
  const ended = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  let cpu = 0;
  const watch = setInterval(() => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    cpu = cpuSeconds([child.pid]);
    // Finishes its input, then says what it did.
    if (cpu >= seconds) child.kill("SIGUSR1");
  }, LOOK_MS);
  const [code] = await ended;
  clearInterval(watch);
  await new Promise<void>((resolve) => output.end(resolve));
  const report = readReport(readFileSync(log, "utf8"));
  const enough = cpu >= seconds;
  if (code === 0 && !enough)
    process.stderr.write(`${target}: only ${cpu} s of CPU in ${limits.max_total_time} s: the machine is too busy\n`);
  if (code !== 0) explain(target, artifacts, log);
  return { target, ...report, cpu, ok: code === 0, enough };
}

function explain(target: string, artifacts: string, log: string): void {
  const lines = readFileSync(log, "utf8").split("\n");
  const panic = lines.findIndex((line) => /panicked at|ERROR: libFuzzer/.test(line));
  process.stderr.write(`\n${target}: a finding\n${lines.slice(panic, panic + 12).join("\n")}\n`);
  for (const name of readdirSync(artifacts)) {
    const bytes = readFileSync(join(artifacts, name));
    process.stderr.write(`${name}: ${bytes.subarray(0, 512).toString("hex")}\n`);
  }
  process.stderr.write(
    `see it again with ".cache/fuzz/target/bin/${target} FILE"; mend it and put the file into fuzz/findings/${target}, where the tests hold it\n`,
  );
}

async function main(args: readonly string[]): Promise<number> {
  const options = {
    "cpu-seconds": { type: "string", default: "60" },
    "wall-seconds": { type: "string" },
    seed: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  } as const;
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  const cpu = Number(values["cpu-seconds"]);
  const wall = Number(values["wall-seconds"] ?? cpu / LEAST_SHARE);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000));
  const unknown = positionals.find((name) => !TARGETS.some((target) => target === name));
  if (values.help || !(cpu > 0 && wall > 0 && Number.isInteger(seed) && seed > 0) || unknown !== undefined) {
    process.stderr.write(`${USAGE}\n`);
    return values.help ? 0 : 64;
  }
  process.stdout.write(`seed ${seed}\n`);
  const waiting = positionals.length > 0 ? [...positionals] : [...TARGETS];
  const runs: Run[] = [];
  const worker = async (): Promise<void> => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) runs.push(await fuzz(target, { cpu, wall, seed }));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  writeFileSync(join(cache, "report.json"), `${JSON.stringify(runs, null, 2)}\n`);
  const lines = runs.map(({ target, cpu, executions, coverage, features, corpus, memory, ok, enough }) =>
    [target, cpu.toFixed(0), executions, coverage, features, corpus, memory, ok ? (enough ? "clean" : "clean, cut short") : "FAILED"].map(
      String,
    ),
  );
  const head = ["target", "CPU s", "executions", "coverage", "features", "corpus", "MB", ""];
  process.stdout.write(`${columns([head, ...lines])}\n`);
  return runs.every(({ ok }) => ok) ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
