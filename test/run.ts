// Runs every TypeScript test inside one sandbox, so that whatever a test makes is gone with it, and ends with the runner's exit code.
// Arguments are files to run instead of all. Its total goes, as JSON, into the file that TRACKBED_TEST_TOTAL names.
import { spawn } from "node:child_process";
import { globSync } from "node:fs";
import { resolve } from "node:path";
import { enterSandbox } from "../src/lab/sandbox.ts";

// Two files at a time fit two cores; labs with debug engines are the heaviest and wait on conditions, not on time.
const CONCURRENCY = 2;
/** No single test comes near it; one that hangs must not take the rest with it. */
const TEST_TIMEOUT_MS = 400_000;
const PATTERNS = [
  "src/**/*.test.ts",
  "test/**/*.test.ts",
  "bench/**/*.test.ts",
  "fuzz/**/*.test.ts",
  "proto/**/*.test.ts",
  "daemonset/**/*.test.ts",
];
/** They need a Kubernetes cluster: `make test-cluster`. */
const NOT_HERE = ["test/cluster/drills/**", "test/cluster/long/**", "test/cluster/churn/churn.test.ts"];

process.chdir(resolve(import.meta.dirname, ".."));
await enterSandbox();
const wanted = process.argv.slice(2);
const files = wanted.length > 0 ? wanted : globSync(PATTERNS, { exclude: NOT_HERE }).sort();
if (files.length === 0) throw new Error(`no test file matches ${PATTERNS.join(", ")}`);
const limits = [`--test-concurrency=${CONCURRENCY}`, `--test-timeout=${TEST_TIMEOUT_MS}`];
const total = process.env["TRACKBED_TEST_TOTAL"];
const reporters: [string, string][] = [["spec", "stdout"]];
if (total !== undefined) reporters.push([resolve(import.meta.dirname, "reporter.ts"), total]);
const reports = reporters.flatMap(([name, to]) => [`--test-reporter=${name}`, `--test-reporter-destination=${to}`]);
const runner = spawn(process.execPath, ["--test", ...limits, ...reports, ...files], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => runner.kill(signal));
runner.once("error", (error) => {
  console.error(`cannot start the test runner: ${error.message}`);
  process.exitCode = 1;
});
runner.once("exit", (code, signal) => {
  process.exitCode = code ?? 1;
  if (signal !== null) console.error(`the test runner was ended by ${signal}`);
});
