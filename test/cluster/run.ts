// `make test-cluster`: a cluster of its own, the drills in it one file after the other, and nothing left afterwards, however it ends.
// Arguments are drill files to run instead of all. TRACKBED_CLUSTER_KEEP=1 leaves the cluster up for a look.
import { type ChildProcess, spawn } from "node:child_process";
import { globSync } from "node:fs";
import { join } from "node:path";
import { enter } from "./machine/power.ts";
import { CONTROL_PLANE, ROOT, readSettings } from "./settings.ts";
import { down, up } from "./up.ts";

/** No drill comes near it; one that hangs must not take the rest with it. */
const DRILL_TIMEOUT_MS = 600_000;
const DRILLS = join(import.meta.dirname, "drills");

// Beside the cluster of `make cluster`, which is the developer's own.
const env = { ...process.env, TRACKBED_CLUSTER: process.env["TRACKBED_CLUSTER"] || "cluster-test" };
const keep = process.env["TRACKBED_CLUSTER_KEEP"] === "1";
const settings = readSettings(env);
const began = performance.now();
const say = (text: string): void => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
const files =
  process.argv.length > 2
    ? process.argv.slice(2)
    : globSync("*.test.ts", { cwd: DRILLS })
        .sort()
        .map((name) => join(DRILLS, name));

let drills: ChildProcess | undefined;
let stopped = false;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.on(signal, () => {
    stopped = true;
    drills?.kill("SIGTERM");
  });

const orphaned = keep ? undefined : downWhenWeAreGone();
try {
  await down(settings); // whatever an earlier run that was killed with everything has left
  await up(settings, say);
  if (!stopped) process.exitCode = await drill();
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
} finally {
  if (keep) say(`the cluster stays up: TRACKBED_CLUSTER=${env.TRACKBED_CLUSTER} bin/cluster sh`);
  else await down(settings);
  orphaned?.kill("SIGKILL");
}
if (stopped) process.exitCode = 130;

/** Drills run in the control plane's network, from where pods and services are reached; one at a time, for they pull plugs. */
async function drill(): Promise<number> {
  const runner = [process.execPath, "--test", "--test-concurrency=1", `--test-timeout=${DRILL_TIMEOUT_MS}`, ...files];
  const [program = "", ...args] = enter(settings, CONTROL_PLANE, runner);
  const child = spawn(program, args, { stdio: "inherit", env, cwd: ROOT });
  drills = child;
  return new Promise((resolve, reject) => child.once("error", reject).once("exit", (code) => resolve(code ?? 1)));
}

/** A process of its own session that outlives us by one `down`: SIGKILL of a whole test run leaves nothing either. */
function downWhenWeAreGone(): ChildProcess {
  const wait = `tail --pid=${process.pid} -f /dev/null; exec "$0" "$1" down`;
  const child = spawn("bash", ["-c", wait, process.execPath, join(import.meta.dirname, "main.ts")], {
    detached: true,
    stdio: "ignore",
    env,
  });
  child.unref();
  return child;
}
