// Claims about the launcher, with two sleeping programs in the place of daemon and engine.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Launcher, type LaunchOptions, launch, pauseAfter, type Who } from "./launcher.ts";

const DEADLINE_MS = 5000;
const options: LaunchOptions = {
  node: "a",
  mesh: "/m",
  run: "/r",
  control: "https://c:1",
  root: "/root",
  token: "/token",
  engine: "/bin/true",
};
/** Takes the place of both programs: the command lines behind it are its unused arguments. */
const both = (script: string): readonly string[] => ["sh", "-c", script, "sh"];

function start(t: TestContext, script: string, onLine: LaunchOptions["onLine"] = () => undefined): Launcher {
  const launcher = launch({ ...options, within: both(script), onLine });
  t.after(() => launcher.stop());
  return launcher;
}

test("the daemon's runtime is told to be small, and where it keeps its compiled modules", async (t) => {
  const lines: string[] = [];
  start(t, 'echo "$* cache=$NODE_COMPILE_CACHE"; exec sleep 60', (who, line) => lines.push(`${who} ${line}`));
  await until("both said their command lines", () => lines.length === 2);
  const daemon = lines.find((line) => line.startsWith("daemon")) ?? "";
  assert.match(daemon, / --max-semi-space-size=1 \S+daemon\/main\.ts --node a .* cache=\/r\/node-cache$/);
});

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!holds()) {
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const alive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

function pidOf(launcher: Launcher, who: Who): number {
  const pid = launcher.pid(who);
  assert.ok(pid !== null, `${who} is down`);
  return pid;
}

test("a child that is killed comes back, and the other one does not notice", async (t) => {
  const launcher = start(t, "exec sleep 1000");
  const [daemon, engine] = [pidOf(launcher, "daemon"), pidOf(launcher, "engine")];
  process.kill(engine, "SIGKILL");
  await until("the engine is back", () => launcher.pid("engine") !== null && launcher.pid("engine") !== engine);
  assert.equal(launcher.restarts("engine"), 1);
  assert.equal(launcher.pid("daemon"), daemon);
  assert.equal(launcher.restarts("daemon"), 0);
});

test("stop ends both and starts neither again", async (t) => {
  const launcher = start(t, "exec sleep 1000");
  const pids = [pidOf(launcher, "daemon"), pidOf(launcher, "engine")];
  await launcher.stop();
  assert.deepEqual(pids.map(alive), [false, false]);
  assert.equal(await launcher.ended, 0);
  assert.deepEqual([launcher.pid("daemon"), launcher.pid("engine")], [null, null]);
});

test("a child that refuses its command line ends the launcher with 64", async (t) => {
  assert.equal(await start(t, "exit 64").ended, 64);
});

test("a program that cannot be started is told as a line, not as a crash", async (t) => {
  const lines: string[] = [];
  const launcher = launch({ ...options, within: ["/does/not/exist"], onLine: (who, line) => lines.push(`${who} ${line}`) });
  t.after(() => launcher.stop());
  await until("both were told", () =>
    ["daemon", "engine"].every((who) => lines.some((line) => line.startsWith(`${who} could not be started`))),
  );
});

test("every line of a child is told with who said it", async (t) => {
  const lines: string[] = [];
  start(t, "echo said; echo wrong >&2; exec sleep 1000", (who, line) => lines.push(`${who} ${line}`));
  await until("all lines came", () => lines.length === 4);
  assert.deepEqual(lines.sort(), ["daemon said", "daemon wrong", "engine said", "engine wrong"]);
});

test("pauses double from 50 ms to 2 s and start anew after 10 s of health", () => {
  const pauses = [pauseAfter(null, 100, 1)];
  while (pauses.length < 8) pauses.push(pauseAfter(pauses.at(-1) ?? null, 100, 1));
  assert.deepEqual(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
  assert.equal(pauseAfter(2000, 10_000, null), 50);
  assert.equal(pauseAfter(null, 0, 64), null);
});
