// A test run on a cluster of its own: up, the files stage by stage in the control plane's network, and nothing left, however it ends.
// TRACKBED_CLUSTER_KEEP=1 leaves the cluster up for a look.
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { ensure, MADE_FOR_DRILLS, type Part } from "./build.ts";
import type { Cluster } from "./cluster.ts";
import { enter } from "./machine/power.ts";
import { CONTROL_PLANE, ROOT, readSettings, type Settings } from "./settings.ts";
import { down, type Say } from "./up.ts";

/** What runs beside each other; in each row one file after the other, for they pull plugs. */
export type Stage = readonly (readonly string[])[];

export type Tier = {
  /** Beside the cluster of `make cluster`, which is the developer's own. */
  readonly cluster: string;
  readonly stages: readonly Stage[];
  /** No file comes near it; one that hangs must not take the rest with it. */
  readonly timeoutMs: number;
  /** What the files need beside the cluster itself. */
  readonly parts?: readonly Part[];
  /** Settings that are not the user's to choose. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly raise: (settings: Settings, say: Say) => Promise<Cluster>;
};

/** The exit code. */
export async function runTier(tier: Tier): Promise<number> {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    ...tier.settings,
    NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] || join(ROOT, ".cache/node"),
    TRACKBED_CLUSTER: process.env["TRACKBED_CLUSTER"] || tier.cluster,
  };
  const keep = process.env["TRACKBED_CLUSTER_KEEP"] === "1";
  const settings = readSettings(env);
  const began = performance.now();
  const say = (text: string): void => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
  const tests = new Set<ChildProcess>();
  const claims = { passed: 0, failed: 0 };
  let stopped = false;
  let code = 1;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(signal, () => {
      stopped = true;
      for (const child of tests) child.kill("SIGTERM");
    });

  const orphaned = keep ? undefined : downWhenWeAreGone(env);
  try {
    await down(settings); // whatever an earlier run that was killed with everything has left
    const parts = tier.parts ?? [];
    for (const part of parts) await ensure(settings, part, say);
    await tier.raise(settings, say);
    env[MADE_FOR_DRILLS] = parts.map(({ name }) => name).join(",");
    code = 0;
    for (const stage of tier.stages) {
      const codes = await Promise.all(stage.map((files, row) => (stopped || files.length === 0 ? 0 : test(files, row > 0))));
      code = codes.find((one) => one !== 0) ?? code;
    }
    say(`${claims.passed} claims passed, ${claims.failed} failed`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
  } finally {
    if (keep) say(`the cluster stays up: TRACKBED_CLUSTER=${env["TRACKBED_CLUSTER"]} bin/cluster sh`);
    else await down(settings);
    orphaned?.kill("SIGKILL");
  }
  return stopped ? 130 : code;

  /** In the control plane's network, from where pods and services are reached. What a row beside the first says is shown when it is over. */
  async function test(files: readonly string[], aside: boolean): Promise<number> {
    const runner = [process.execPath, "--test", "--test-concurrency=1", `--test-timeout=${tier.timeoutMs}`, ...files];
    const [program = "", ...args] = enter(settings, CONTROL_PLANE, runner);
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], env, cwd: ROOT });
    tests.add(child);
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (!aside) process.stdout.write(text);
    });
    try {
      return await new Promise<number>((resolve, reject) => child.once("error", reject).once("close", (exit) => resolve(exit ?? 1)));
    } finally {
      tests.delete(child);
      if (aside) process.stdout.write(said);
      for (const what of ["passed", "failed"] as const) claims[what] += counted(said, SUMMARY[what]);
    }
  }
}

/** As the test runner's last lines call them. */
const SUMMARY = { passed: "pass", failed: "fail" };

const counted = (said: string, what: string): number => Number(new RegExp(`^\\S+ ${what} (\\d+)$`, "m").exec(said)?.[1] ?? 0);

/** A process of its own session that outlives us by one `down`: SIGKILL of a whole test run leaves nothing either. */
function downWhenWeAreGone(env: NodeJS.ProcessEnv): ChildProcess {
  const wait = `tail --pid=${process.pid} -f /dev/null; exec "$0" "$1" down`;
  const child = spawn("bash", ["-c", wait, process.execPath, join(import.meta.dirname, "main.ts")], {
    detached: true,
    stdio: "ignore",
    env,
  });
  child.unref();
  return child;
}
