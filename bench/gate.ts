// `make bench-gate`: instruction counts of records, frames, headers, policies and decisions, held to within 3 % of what is committed.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { type Counts, readCallgrind } from "./callgrind.ts";
import { program } from "./peer.ts";
import { columns } from "./table.ts";

const SUBJECTS = ["record", "send", "receive", "connect", "hpack", "policy", "decide"] as const;
/** Two runs differ by less than a thousandth (maps hash with random seeds); a change that costs more than this is no accident. */
const TOLERANCE = 0.03;
/** Most expensive functions that --explain shows. */
const SHOWN = 12;
const DEADLINE_MS = 300_000;
const EXPECTED = new URL("gate.json", import.meta.url);
const USAGE = `usage: node bench/gate.ts [--renew | --explain]

--renew    write what is counted now into bench/gate.json, as the counts of this architecture and compiler
--explain  list the most expensive functions`;

const expectations = z.record(
  z.string(),
  z.partialRecord(z.enum(SUBJECTS), z.strictObject({ instructions: z.number(), copies: z.number() })),
);

const expected = (): z.infer<typeof expectations> => expectations.parse(JSON.parse(readFileSync(EXPECTED, "utf8")));

function count(subject: string, directory: string): Counts & { readonly operations: number } {
  const file = join(directory, subject);
  const flags = ["--tool=callgrind", "--toggle-collect=trackbed_gate::measured*", `--callgrind-out-file=${file}`, "--quiet"];
  const output = execFileSync("valgrind", [...flags, program("gate"), subject], { encoding: "utf8", timeout: DEADLINE_MS });
  const counts = readCallgrind(readFileSync(file, "utf8"));
  if (counts.instructions === 0) throw new Error(`callgrind counted nothing in ${subject}: is trackbed_gate::measured in the program?`);
  return { ...counts, operations: Number(output) };
}

/** Counts depend on both. */
function toolchain(): string {
  return `${process.arch}, ${execFileSync("rustc", ["--version"], { encoding: "utf8" }).trim()}`;
}

function main(args: readonly string[]): number {
  const [flag] = args;
  if (args.length > 1 || (flag !== undefined && flag !== "--renew" && flag !== "--explain")) {
    process.stderr.write(`${USAGE}\n`);
    return 64;
  }
  if (!Object.keys(expected()).some((key) => key.startsWith(`${process.arch}, `)) && flag !== "--renew") {
    process.stderr.write(`bench/gate.json has no counts for ${process.arch}: nothing to hold them to here\n`);
    return 0;
  }
  if (!existsSync(program("gate"))) throw new Error(`${program("gate")} is missing: run make bench-gate`);
  const directory = mkdtempSync(join(tmpdir(), "trackbed-gate-"));
  try {
    return compare(new Map(SUBJECTS.map((subject) => [subject, count(subject, directory)])), flag);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function compare(counted: ReadonlyMap<(typeof SUBJECTS)[number], ReturnType<typeof count>>, flag: string | undefined): number {
  const all = expected();
  const key = toolchain();
  if (flag === "--renew") {
    const now = Object.fromEntries([...counted].map(([subject, { instructions, copies }]) => [subject, { instructions, copies }]));
    writeFileSync(EXPECTED, `${JSON.stringify({ ...all, [key]: now }, null, 2)}\n`);
  }
  const wanted = flag === "--renew" ? null : all[key];
  let failed = 0;
  const lines = [...counted].map(([subject, { instructions, copies, operations }]) => {
    const before = wanted?.[subject];
    const change = before === undefined ? null : Math.max(instructions / before.instructions, copies / before.copies) - 1;
    const verdict = change === null ? "" : change > TOLERANCE ? "TOO MANY" : change < -TOLERANCE ? "fewer: renew" : "as expected";
    if (change !== null && Math.abs(change) > TOLERANCE) failed++;
    const each = (instructions / operations).toFixed(0);
    return [subject, `${instructions}`, each, `${copies}`, change === null ? "" : `${(change * 100).toFixed(2)} %`, verdict];
  });
  process.stdout.write(`${columns([["subject", "instructions", "each", "copies", "change", ""], ...lines])}\n`);
  if (flag === "--explain")
    for (const [subject, { functions, operations }] of counted)
      process.stdout.write(
        `\n${subject}, instructions each\n${columns(functions.slice(0, SHOWN).map(([name, n]) => [(n / operations).toFixed(1), name]))}\n`,
      );
  if (wanted === undefined) {
    process.stderr.write(
      `bench/gate.json has no counts for "${key}": run "node bench/gate.ts --renew" on a good commit, and commit the file\n`,
    );
    return 1;
  }
  if (failed > 0)
    process.stderr.write(
      `${failed} of ${counted.size} changed by more than ${TOLERANCE * 100} %. See where with "node bench/gate.ts --explain"; if it is meant, run "node bench/gate.ts --renew", commit bench/gate.json and say why in the commit\n`,
    );
  return failed > 0 ? 1 : 0;
}

process.exitCode = main(process.argv.slice(2));
