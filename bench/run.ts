// `make bench`: direct, HAProxy and Trackbed over the same two nodes of network namespaces, in interleaved rounds.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Lab } from "../src/lab/api.ts";
import { startLab } from "../src/lab/lab.ts";
import { enterSandbox } from "../src/lab/sandbox.ts";
import { until } from "../src/lab/until.ts";
import { anonymousMemory, cpuSeconds } from "./process.ts";
import { figures, type Scenario, type Size, scenarios } from "./scenario.ts";
import { type Row, render, rows, type Sample } from "./table.ts";
import { PORT, startVariants, type Variant } from "./variant.ts";

const HELP = `usage: node bench/run.ts [--rounds N] [--quick] [--only TEXT] [--output FILE]

--rounds N     interleaved rounds, 5
--quick        small runs: shows that the bench works, not how fast anything is
--only TEXT    only scenarios whose name holds TEXT
--output FILE  all samples and rows as JSON, .cache/bench.json`;

/** Idle connections of the memory scenario: enough to drown a process's own pages, few enough for a descriptor limit of 20,000. */
const IDLE_CONNECTIONS = { full: 2000, quick: 100 } as const;
const RUN_DEADLINE_MS = 120_000;
const LOAD = fileURLToPath(new URL("../native/target/release/trackbed-load", import.meta.url));

async function main(): Promise<number> {
  const options = {
    rounds: { type: "string", default: "5" },
    quick: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    output: { type: "string", default: ".cache/bench.json" },
    help: { type: "boolean", default: false },
  } as const;
  const { values } = parseArgs({ options });
  const rounds = Number(values.rounds);
  if (values.help || !Number.isInteger(rounds) || rounds < 1) {
    process.stdout.write(`${HELP}\n`);
    return values.help ? 0 : 64;
  }
  if (!existsSync(LOAD)) throw new Error(`${LOAD} is missing: run make engine`);
  await enterSandbox();
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  const lab = await startLab({ mesh: fileURLToPath(new URL("mesh", import.meta.url)), progress: say });
  try {
    await lab.startMesh();
    const samples = await measure(lab, rounds, values.quick ? "quick" : "full", values.only, say);
    report(rows(samples), samples, values.output);
    return 0;
  } catch (error) {
    say(lab.tailLogs());
    throw error;
  } finally {
    await lab.stop();
  }
}

async function measure(lab: Lab, rounds: number, size: Size, only: string, say: (line: string) => void): Promise<Sample[]> {
  const variants = await startVariants(lab, LOAD);
  for (const variant of variants) await until(`${variant.name} ${variant.placement} answers`, () => answers(variant));
  const samples: Sample[] = [];
  const chosen = scenarios.filter(({ name }) => name.includes(only));
  for (let round = 1; round <= rounds; round++) {
    for (const scenario of chosen) {
      say(`round ${round} of ${rounds}: ${scenario.name}`);
      // Every other round the other way round, so that nobody always runs on the cache that somebody else warmed.
      for (const variant of round % 2 === 0 ? variants.toReversed() : variants)
        samples.push(...(await runScenario(round, scenario, variant, size)));
    }
  }
  if ("memory per idle connection".includes(only)) {
    for (const variant of variants) samples.push(...(await idle(variant, size)));
  }
  return samples;
}

async function answers(variant: Variant): Promise<boolean> {
  const { code } = await variant.client.exec([LOAD, "bulk", variant.to, "--bytes", "1000"], { timeoutMs: 2000 });
  return code === 0;
}

async function runScenario(round: number, scenario: Scenario, variant: Variant, size: Size): Promise<Sample[]> {
  const [mode = "", ...flags] = scenario.args(size);
  const before = { server: cpuSeconds(variant.server()), proxies: cpuSeconds(variant.proxies()) };
  const output = await variant.client.run([LOAD, mode, variant.to, ...flags], { timeoutMs: RUN_DEADLINE_MS });
  const run = figures.parse(JSON.parse(output));
  const cpu = {
    client: run.cpu_seconds,
    server: cpuSeconds(variant.server()) - before.server,
    proxies: cpuSeconds(variant.proxies()) - before.proxies,
  };
  const { placement, name } = variant;
  const sample = (metric: string, unit: string, value: number): Sample => ({
    round,
    scenario: scenario.name,
    placement,
    variant: name,
    metric,
    unit,
    value,
  });
  return scenario.metrics.map((metric) => sample(metric.name, metric.unit, metric.of(run, cpu)));
}

/** Memory that the proxies of both nodes take for each connection that is open and silent, halved to one proxy. */
async function idle(variant: Variant, size: Size): Promise<Sample[]> {
  const connections = IDLE_CONNECTIONS[size];
  const before = anonymousMemory(variant.proxies());
  if (variant.proxies().length === 0) return [];
  const child = variant.client.spawn([LOAD, "idle", variant.to, "--connections", String(connections)]);
  const lines: string[] = [];
  if (child.stdout === null || child.stdin === null) throw new Error("the load generator has no pipes");
  createInterface(child.stdout).on("line", (line) => lines.push(line));
  await until(`${connections} idle connections through ${variant.name}`, () => lines.length > 0, RUN_DEADLINE_MS);
  const each = (anonymousMemory(variant.proxies()) - before) / connections;
  child.stdin.end("\n");
  await until("the idle connections answered once more", () => lines.length > 1, RUN_DEADLINE_MS);
  if (lines[1] !== `{"alive":${connections}}`) throw new Error(`${variant.name}: of ${connections} idle connections ${lines[1]}`);
  const hops = variant.placement === "across nodes" ? 2 : 1;
  const { placement, name } = variant;
  return [
    {
      round: 1,
      scenario: `${connections} idle connections`,
      placement,
      variant: name,
      metric: "memory per connection and proxy",
      unit: "KiB",
      value: each / hops / 1024,
    },
  ];
}

function report(table: readonly Row[], samples: readonly Sample[], file: string): void {
  process.stdout.write(`${render(table)}\n`);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ port: PORT, rows: table, samples }, null, 2)}\n`);
  process.stderr.write(`samples: ${file}\n`);
}

process.exitCode = await main();
