// `make test-cluster`: the drills in a Kubernetes of their own. Arguments are drill files to run instead of all.
import { globSync } from "node:fs";
import { basename, join } from "node:path";
import { helm, type Part } from "./build.ts";
import { gatewayApi, suite } from "./conformance-suite.ts";
import { runTier } from "./tier.ts";
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

const asked = process.argv.slice(2);
const all = globSync("*.test.ts", { cwd: DRILLS })
  .sort()
  .map((name) => join(DRILLS, name));
const files = asked.length > 0 ? asked : all;
process.exitCode = await runTier({
  cluster: "cluster-test",
  files,
  parts: [...new Set(files.flatMap((file) => PARTS[basename(file, ".test.ts")] ?? []))],
  timeoutMs: DRILL_TIMEOUT_MS,
  raise: up,
});
