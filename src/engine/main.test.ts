// What the launcher says when its command line or its surroundings do not let it start.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const DEADLINE_MS = 30_000;
const MAIN = new URL("main.ts", import.meta.url).pathname;

test("the launcher starts nothing when a directory or the engine cannot be used, and says which in one line", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "launcher-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const right = {
    node: "a",
    mesh: dir,
    run: join(dir, "run"),
    control: "https://127.0.0.1:1",
    root: "r",
    token: "t",
    engine: "/bin/false",
  };
  const cases: [Record<string, string>, number, RegExp][] = [
    [{ mesh: join(dir, "none") }, 1, /none \(--mesh\) does not exist/],
    [{ run: "/proc/x" }, 1, /\/proc\/x \(--run\) cannot be made/],
    [{ engine: join(dir, "none") }, 64, /--engine.*none.*no such file/],
    [{ workers: "many" }, 64, /--workers.*from 1 to 64/],
    [{ unknown: "x" }, 64, /unknown option '--unknown'/],
  ];
  for (const [wrong, code, message] of cases) {
    const args = Object.entries({ ...right, ...wrong }).flatMap(([name, value]) => [`--${name}`, value]);
    const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
      encoding: "utf8",
      timeout: DEADLINE_MS,
      killSignal: "SIGKILL",
    });
    assert.deepEqual([status, stdout, stderr.trim().split("\n").length], [code, "", 1], stderr);
    assert.match(stderr, message);
  }
});
