// `make test-cluster`: the drills in a Kubernetes of their own. Arguments are drill files to run instead of all.
import { globSync } from "node:fs";
import { basename, join } from "node:path";
import { helm, type Part } from "./build.ts";
import { gatewayApi, suite } from "./conformance-suite.ts";
import { runTier, type Stage } from "./tier.ts";
import { up } from "./up.ts";

const DRILL_TIMEOUT_MS = 600_000;
const DRILLS = join(import.meta.dirname, "drills");

/** What drills need beside the cluster. */
const PARTS: Readonly<Record<string, readonly Part[]>> = {
  "1-conformance": [gatewayApi, suite],
  "1-manifests": [helm],
  "2-install": [gatewayApi],
  "3-conformance": [gatewayApi, suite],
  "4-policy": [gatewayApi],
  "4-waypoint": [gatewayApi],
  release: [helm],
};

/**
 * Drills that say nothing over a node's cable, and leave the processes of the mesh and of the cluster alone: they run beside those of their stage. Tunnels count as
 * well as what is in clear, for others claim that there are none, or that there is one.
 */
const BESIDE = ["1-manifests"];

/** Numbers are stages, but 3 and 4 are one: stages come one after the other, and so do the drills of one, but for those that may run beside. */
function stagesOf(files: readonly string[]): Stage[] {
  const name = (file: string): string => basename(file, ".test.ts");
  const numbers = Object.values(Object.groupBy(files, (file) => name(file).charAt(0).replace("4", "3")));
  return numbers.map((of = []) => [of.filter((file) => !BESIDE.includes(name(file))), of.filter((file) => BESIDE.includes(name(file)))]);
}

const asked = process.argv.slice(2);
const all = globSync("*.test.ts", { cwd: DRILLS })
  .sort()
  .map((name) => join(DRILLS, name));
const files = asked.length > 0 ? asked : all;
process.exitCode = await runTier({
  cluster: "cluster-test",
  stages: stagesOf(files),
  parts: [...new Set(files.flatMap((file) => PARTS[basename(file, ".test.ts")] ?? []))],
  timeoutMs: DRILL_TIMEOUT_MS,
  raise: up,
});
