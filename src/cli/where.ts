// Who is asked: the daemons of this machine, or a cluster.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { paths } from "#contract/tables.ts";
import { defaultKubeconfig } from "./cluster/client.ts";
import { runClusterStatus } from "./cluster/status.ts";
import { type Daemon, findDaemons } from "./daemons.ts";
import { type Exit, type Format, isDaemonAway, isUsage } from "./outcome.ts";
import { runStatus } from "./status.ts";

export type Where = { readonly run: readonly string[]; readonly kubeconfig?: string; readonly context?: string };

export type StatusOptions = Where & { readonly output: Format };

export function runStatusSomewhere({ output, ...where }: StatusOptions): Promise<Exit> {
  const daemons = daemonsOf(where);
  if (daemons === null) return runClusterStatus({ kubeconfig: where.kubeconfig, context: where.context }, output);
  return runStatus(
    daemons.map(({ run }) => run),
    output,
  );
}

/** Null: the cluster is meant. Throws where there is neither. */
export function daemonsOf({ run, kubeconfig, context }: Where): readonly Daemon[] | null {
  if (kubeconfig !== undefined || context !== undefined || namesClusterOnly(run, process.env)) return null;
  try {
    return findDaemons(run);
  } catch (error) {
    if (isDaemonAway(error) && hasKubeconfig()) return null;
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
