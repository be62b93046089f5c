// `trackbed status` asks whoever is at hand: the daemons of this machine, or the API server of a cluster.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { paths } from "#contract/tables.ts";
import { defaultKubeconfig } from "./cluster/client.ts";
import { runClusterStatus } from "./cluster/status.ts";
import { findDaemons } from "./daemons.ts";
import { type Exit, type Format, isDaemonAway, isUsage } from "./outcome.ts";
import { runStatus } from "./status.ts";

export type StatusOptions = {
  readonly run: readonly string[];
  readonly output: Format;
  readonly kubeconfig?: string;
  readonly context?: string;
};

export function runStatusSomewhere({ run, output, kubeconfig, context }: StatusOptions): Promise<Exit> {
  const askCluster = (): Promise<Exit> => runClusterStatus({ kubeconfig, context }, output);
  if (kubeconfig !== undefined || context !== undefined || namesClusterOnly(run, process.env)) return askCluster();
  try {
    return runStatus(
      findDaemons(run).map((daemon) => daemon.run),
      output,
    );
  } catch (error) {
    if (isDaemonAway(error) && hasKubeconfig()) return askCluster();
    throw error;
  }
}

/** Somebody who sets KUBECONFIG means that cluster, whatever labs run on the machine; on a node its own daemon comes first. */
const namesClusterOnly = (run: readonly string[], env: NodeJS.ProcessEnv): boolean =>
  run.length === 0 && !env["TRACKBED_RUN"] && Boolean(env["KUBECONFIG"]) && !existsSync(join(paths.run, paths.adminSocket));

function hasKubeconfig(): boolean {
  try {
    defaultKubeconfig();
    return true;
  } catch (error) {
    if (isUsage(error)) return false;
    throw error;
  }
}
