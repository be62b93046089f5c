// `make test-skew`: the churn with another version's control, then with its daemons, beside everything else of this one. TRACKBED_SKEW_REV names the
// other version (default: the commit before); an engine of it is taken from TRACKBED_SKEW_ENGINE where one was built.
import { existsSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { run } from "../command.ts";
import { ROOT } from "../settings.ts";
import { runTier } from "../tier.ts";
import { upChurn } from "./up.ts";

/** Enough for every address to change hands twice; the whole number is for `make test-churn`. */
const PODS = "60";
const CHURN_TIMEOUT_MS = 600_000;

const revision = (await run(["git", "-C", ROOT, "rev-parse", `${process.env["TRACKBED_SKEW_REV"] || "HEAD^"}^{commit}`])).trim();
const other = join(ROOT, ".cache/versions", revision);
if (!existsSync(other)) {
  await run(["git", "-C", ROOT, "worktree", "add", "--detach", other, revision]);
  symlinkSync(join(ROOT, "node_modules"), join(other, "node_modules"));
}
const engine = process.env["TRACKBED_SKEW_ENGINE"];
if (engine !== undefined && basename(engine) !== "trackbed-engine")
  throw new Error(`TRACKBED_SKEW_ENGINE=${engine}: call the file trackbed-engine, by which name its processes are found on nodes`);
const skews: readonly (readonly [string, Readonly<Record<string, string>>])[] = [
  ["control", { TRACKBED_CLUSTER_CONTROL: other }],
  ["daemons", { TRACKBED_CLUSTER_DAEMON: other }],
  ...(engine === undefined ? [] : [["engines", { TRACKBED_ENGINE: engine }] as const]),
];
try {
  for (const [what, settings] of skews) {
    console.log(`\n==> ${what} of ${revision.slice(0, 12)} beside the rest of this version`);
    process.env["TRACKBED_CHURN_PODS"] ||= PODS;
    if (what === "engines") process.env["TRACKBED_ENGINE"] = engine; // the last one: programs are looked for in our own environment
    const code = await runTier({
      cluster: "churn-skew",
      stages: [[[join(import.meta.dirname, "churn.test.ts")]]],
      timeoutMs: CHURN_TIMEOUT_MS,
      settings: { TRACKBED_CLUSTER_KUBELET: "churn", TRACKBED_CLUSTER_NODE_GRACE: "3600s", ...settings },
      raise: upChurn,
    });
    if (code !== 0) process.exitCode = code;
  }
} finally {
  await run(["git", "-C", ROOT, "worktree", "remove", "--force", other]);
}
