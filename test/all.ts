// Runs the Rust tests by the command given, then the TypeScript ones, and ends with the plain total of both; fails when either did.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { countCargo, nothing, render, type Total } from "./total.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

async function run(command: readonly string[], env: NodeJS.ProcessEnv, line: ((text: string) => void) | null): Promise<boolean> {
  const [program = "", ...parameters] = command;
  const child = spawn(program, parameters, { stdio: ["inherit", line ? "pipe" : "inherit", line ? "pipe" : "inherit"], env });
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  for (const signal of SIGNALS) process.on(signal, pass);
  for (const [from, to] of [
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ] as const)
    if (from !== null)
      createInterface(from).on("line", (text) => {
        to.write(`${text}\n`);
        line?.(text);
      });
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  for (const each of SIGNALS) process.off(each, pass);
  if (signal !== null) throw new Error(`${program} was ended by ${signal}`);
  return code === 0;
}

async function typescript(env: NodeJS.ProcessEnv): Promise<[boolean, Total]> {
  const directory = mkdtempSync(join(tmpdir(), "trackbed-total-"));
  try {
    const file = join(directory, "total.json");
    const ok = await run([process.execPath, join(import.meta.dirname, "run.ts")], { ...env, TRACKBED_TEST_TOTAL: file }, null);
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    if (text === "") throw new Error("the test runner ended without a total");
    return [ok, JSON.parse(text) as Total];
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const cargo = process.argv.slice(2);
if (cargo.length === 0) {
  console.error("expected the command that runs the Rust tests: node test/all.ts cargo test …");
  process.exit(64);
}
process.chdir(resolve(import.meta.dirname, ".."));
const rust = nothing();
console.log("\n==> testing Rust");
const rustOk = await run(cargo, process.env, (line) => countCargo(rust, line));
console.log("\n==> testing TypeScript and the mesh of two nodes");
const [typescriptOk, total] = await typescript(process.env);
console.log(`\n==> total\n${render({ Rust: rust, TypeScript: total })}`);
if (!rustOk && rust.failed === 0) console.log("Rust: the command itself failed, see above");
process.exitCode = rustOk && typescriptOk ? 0 : 1;
