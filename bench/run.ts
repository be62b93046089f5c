// `make bench`: direct, peers and Trackbed over the same two nodes of network namespaces, in interleaved rounds.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startLab } from "../src/lab/lab.ts";
import { enterSandbox } from "../src/lab/sandbox.ts";
import { type Flags, HELP, parseFlags, UsageError } from "./flags.ts";
import { merge, svg } from "./histogram.ts";
import { program } from "./peer.ts";
import { measure, type Results } from "./rounds.ts";
import { scenarios } from "./scenario.ts";
import { render, rows } from "./table.ts";
import { placements } from "./variant.ts";
import { judge, readWanted, renderVerdicts } from "./wanted.ts";

const USAGE = 64;
const { stdout, stderr } = process;
const say = (line: string): void => void stderr.write(`${line}\n`);
/** One line that replaces itself where somebody looks, lines of a log where nobody does. */
const progress = stderr.isTTY ? (line: string): void => void stderr.write(`\r\x1b[K${line}`) : say;

async function main(): Promise<number> {
  const flags = parse();
  if (typeof flags === "number") return flags;
  for (const name of ["load", "floor", "library", "l7", "engine"])
    if (!existsSync(program(name))) throw new Error(`${program(name)} is missing: run make engine`);
  await enterSandbox();
  const lab = await startLab({ mesh: fileURLToPath(new URL("mesh", import.meta.url)), progress: say });
  const results: Results = { samples: [], latencies: [] };
  try {
    await lab.startMesh();
    await measure(lab, flags, results, progress);
    return 0;
  } catch (error) {
    say(lab.tailLogs());
    throw error;
  } finally {
    say("");
    if (results.samples.length > 0) report(results, flags);
    await lab.stop();
  }
}

function parse(): Flags | number {
  try {
    const flags = parseFlags(process.argv.slice(2));
    if (flags !== null) return flags;
    stdout.write(`${HELP}\n`);
    return 0;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    say(`bench: ${error.message}\n\n${HELP}`);
    return USAGE;
  }
}

function report({ samples, latencies }: Results, { directory, output }: Flags): void {
  const [table, verdicts] = [rows(samples), judge(readWanted(), samples)];
  mkdirSync(directory, { recursive: true });
  const json = `${JSON.stringify({ wanted: verdicts, rows: table, samples }, null, 1)}\n`;
  writeFileSync(join(directory, "bench.json"), json);
  for (const [file, curves] of Map.groupBy(latencies, ({ scenario, placement }) => `${scenario}-${placement}.svg`)) {
    const [first] = curves;
    const title = `${scenarios.find(({ id }) => id === first?.scenario)?.name}, ${first?.placement === "local" ? placements.local : placements.across}`;
    const merged = Map.groupBy(curves, ({ variant }) => variant);
    const lines = [...merged].map(([name, runs]) => [name, merge(runs.map(({ histogram }) => histogram))] as const);
    writeFileSync(join(directory, file), svg(title, lines));
  }
  stdout.write(output === "json" ? json : `${render(table)}\n\n${renderVerdicts(verdicts)}\n`);
  say(`samples and latency histograms: ${directory}`);
}

process.exitCode = await main();
