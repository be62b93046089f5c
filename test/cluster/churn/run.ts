// `make test-churn`: hundreds of pods on a handful of addresses, between a real API server and namespaces, without containers.
import { join } from "node:path";
import { runTier } from "../tier.ts";
import { upChurn } from "./up.ts";

/** 300 pods took 2 minutes on an idle machine. */
const CHURN_TIMEOUT_MS = 600_000;

process.exitCode = await runTier({
  cluster: "churn",
  stages: [[[join(import.meta.dirname, "churn.test.ts")]]],
  timeoutMs: CHURN_TIMEOUT_MS,
  // Nobody renews these nodes' heartbeats: they would become NotReady in the midst of it.
  settings: { TRACKBED_CLUSTER_KUBELET: "churn", TRACKBED_CLUSTER_NODE_GRACE: "3600s" },
  raise: upChurn,
});
