// `make test-cluster`: the drills in a Kubernetes of their own. Arguments are drill files to run instead of all.
import { globSync } from "node:fs";
import { join } from "node:path";
import { runTier } from "./tier.ts";
import { up } from "./up.ts";

const DRILL_TIMEOUT_MS = 600_000;
const DRILLS = join(import.meta.dirname, "drills");

const asked = process.argv.slice(2);
const all = globSync("*.test.ts", { cwd: DRILLS })
  .sort()
  .map((name) => join(DRILLS, name));
process.exitCode = await runTier({
  cluster: "cluster-test",
  files: asked.length > 0 ? asked : all,
  timeoutMs: DRILL_TIMEOUT_MS,
  raise: up,
});
