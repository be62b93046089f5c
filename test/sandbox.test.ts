// However a sandbox ends, its exit code is passed on and nothing of it is left.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "../src/lab/until.ts";

const LAB = join(import.meta.dirname, "../src/lab");
const SHOP = join(import.meta.dirname, "../examples/shop");

/** A program that enters a sandbox, says so, and then does what `then` says. `mark` names all its processes. */
function start(then: string, mark: string): ChildProcess {
  const script = `import { enterSandbox } from "${LAB}/sandbox.ts"; import { startLab } from "${LAB}/lab.ts";
    await enterSandbox(); ${then}`;
  return spawn(process.execPath, ["--input-type=module-typescript", "-e", script, mark], { stdio: ["ignore", "pipe", "inherit"] });
}

const said = (child: ChildProcess, text: string): Promise<unknown> =>
  new Promise((resolve, reject) => {
    let all = "";
    child.once("exit", (code) => reject(new Error(`ended with ${code} before it said "${text}"`)));
    child.stdout?.setEncoding("utf8").on("data", (more: string) => {
      all += more;
      if (all.includes(text)) resolve(undefined);
    });
  });

/** Processes whose command line, or whose pod's, names the mark. */
function left(mark: string): string[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/environ`, "latin1").includes(`MARK=${mark}`) ||
          readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(mark)
        );
      } catch {
        return false; // ended while we looked
      }
    });
}

test("the exit code of the command inside is the exit code outside", async () => {
  const [code] = await once(start("process.exit(7)", "sandbox-exit"), "exit");
  assert.equal(code, 7);
});

test("a signal reaches the command inside exactly once", async () => {
  const child = start(
    'let n = 0; process.on("SIGINT", () => { n++; setTimeout(() => process.exit(40 + n), 100) }); setInterval(() => 0, 1e3); console.log("up")',
    "sandbox-signal",
  );
  await said(child, "up");
  child.kill("SIGINT");
  const [code] = await once(child, "exit");
  assert.equal(code, 41);
});

for (const when of ["while it is being built", "when it is up"]) {
  test(`after SIGKILL of the outer process ${when} nothing of a lab is left`, async () => {
    const mark = `sandbox-killed-${when.replaceAll(" ", "-")}`;
    process.env["MARK"] = mark;
    const up = when === "when it is up" ? 'console.log("up")' : "";
    const child = start(`console.log("inside"); await startLab({ mesh: "${SHOP}" }); ${up}; setInterval(() => 0, 1000)`, mark);
    delete process.env["MARK"];
    await said(child, when === "when it is up" ? "up" : "inside");
    assert.ok(left(mark).length > 1, "the lab's processes can be seen");
    child.kill("SIGKILL");
    await until(
      "all processes are gone",
      () => left(mark).length === 0,
      5000,
      () => left(mark).join(" "),
    );
  });
}
