// The demo as a newcomer runs it: it passes, it can be stopped at any moment, and it does not care what the last run left in its directory.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { canCapture } from "../src/lab/capture.ts";
import { until } from "../src/lab/until.ts";

const TRACKBED = join(import.meta.dirname, "../bin/trackbed");
const DEMO_DEADLINE_MS = 180_000;
const skip = canCapture() ? false : "the demo needs root";
const directory = mkdtempSync(join(tmpdir(), "trackbed-demo-"));
after(() => rmSync(directory, { recursive: true }));

type Run = { readonly child: ChildProcess; stdout: string; stderr: string };

const demo = (mesh: string, ...options: string[]): Run => start([TRACKBED, "demo", "--mesh", mesh, ...options]);

function start([program = "", ...parameters]: readonly string[]): Run {
  const child = spawn(program, parameters, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  const run: Run = { child, stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const)
    child[stream]?.setEncoding("utf8").on("data", (text: string) => {
      run[stream] += text;
    });
  return run;
}

/** Command lines that name the mesh: control, daemons, launchers and the sandbox. */
const left = (mesh: string): string[] =>
  readdirSync("/proc").flatMap((pid) => {
    try {
      const line = /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ") : "";
      return line.includes(mesh) ? [`${pid} ${line}`] : [];
    } catch {
      return []; // ended while we looked
    }
  });

test("every check of the demo passes and nothing is left, twice in a row", { skip, timeout: 2 * DEMO_DEADLINE_MS }, async () => {
  const mesh = join(directory, "twice");
  for (const time of ["first", "second"]) {
    const run = demo(mesh, "--once", "-o", "json");
    const [code] = await once(run.child, "close");
    assert.equal(code, 0, `${time} run:\n${run.stderr}${run.stdout}`);
    const { passed, failed, checks } = JSON.parse(run.stdout) as {
      passed: number;
      failed: number;
      checks: { claim: string; detail: string }[];
    };
    assert.deepEqual([passed, failed], [checks.length, 0]);
    assert.ok(checks.length >= 18);
    assert.deepEqual(left(mesh), []);
  }
});

for (const moment of ["as it starts", "while the nodes come up"]) {
  test(`Ctrl-C ${moment} ends the demo at once and leaves no process`, { skip }, async () => {
    const mesh = join(directory, moment.replaceAll(" ", "-"));
    const run = demo(mesh, "--once");
    const begun = (): boolean =>
      moment === "as it starts" ? run.stdout.includes("Trackbed demo") : left(mesh).some((line) => line.includes("src/daemon/main.ts"));
    await until(`the demo ${moment}`, begun, 20_000, () => run.stdout + run.stderr);
    run.child.kill("SIGINT");
    const [code] = await once(run.child, "close");
    assert.equal(code, 130);
    await until(
      "no process is left",
      () => left(mesh).length === 0,
      5000,
      () => left(mesh).join("\n"),
    );
  });
}

test("a directory with somebody's files is refused and not touched", { skip }, async () => {
  const mesh = join(directory, "mine");
  mkdirSync(mesh);
  writeFileSync(join(mesh, "thesis.yaml"), "kind: Thesis\n");
  const run = demo(mesh, "--once");
  const [code] = await once(run.child, "close");
  assert.equal(code, 1);
  assert.match(run.stderr, /holds something that no demo put there/);
  assert.deepEqual(readdirSync(mesh), ["thesis.yaml"]);
});

test("an ordinary user, even as root of a user namespace, is told why the demo needs root before anything is made", async () => {
  const mesh = join(directory, "ordinary");
  const run = start(["unshare", "--user", "--map-root-user", TRACKBED, "demo", "--mesh", mesh, "--once"]);
  const [code] = await once(run.child, "close");
  assert.equal(code, 1);
  assert.match(run.stderr, /needs root: it captures on the wire/);
  assert.deepEqual([run.stdout, existsSync(mesh)], ["", false]);
});
