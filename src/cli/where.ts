// `trackbed status` asks whoever is at hand: the daemons of this machine, or the API server of a cluster.
import { defaultKubeconfig } from "./cluster/client.ts";
import { runClusterStatus } from "./cluster/status.ts";
import { type Daemon, findDaemons } from "./daemons.ts";
import { type Exit, type Format, isDaemonAway, isUsage } from "./outcome.ts";
import { runStatus } from "./status.ts";

export type StatusOptions = {
  readonly run: readonly string[];
  readonly output: Format;
  readonly kubeconfig?: string;
  readonly context?: string;
};

export function runStatusSomewhere({ run, output, kubeconfig, context }: StatusOptions): Promise<Exit> {
  const target = { kubeconfig, context };
  if (kubeconfig !== undefined || context !== undefined) return runClusterStatus(target, output);
  try {
    const daemons: readonly Daemon[] = findDaemons(run);
    return runStatus(
      daemons.map((daemon) => daemon.run),
      output,
    );
  } catch (error) {
    if (!isDaemonAway(error) || !hasCluster()) throw error;
    return runClusterStatus(target, output);
  }
}

function hasCluster(): boolean {
  try {
    defaultKubeconfig();
    return true;
  } catch (error) {
    if (isUsage(error)) return false;
    throw error;
  }
}
