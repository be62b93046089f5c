// Our own Deployment, DaemonSets and pods as the API server has them now.
import type { V1DaemonSet, V1Deployment, V1Pod } from "@kubernetes/client-node";
import { kubernetes } from "#contract/tables.ts";
import { ourNamespace, PART_OF } from "#install/plan.ts";
import { daemonSetRollout, deploymentRollout, isReady, nameOf, type Rollout, whyNotReady } from "#install/rollout.ts";
import type { Cluster } from "./client.ts";
import type { Look } from "./wait.ts";

export type Parts = {
  readonly control: V1Deployment | null;
  readonly daemon: V1DaemonSet | null;
  readonly engine: V1DaemonSet | null;
  readonly pods: readonly V1Pod[];
};

export async function readParts(cluster: Cluster): Promise<Parts> {
  const [control, daemon, engine, pods] = await Promise.all([
    cluster.get<V1Deployment>("Deployment", kubernetes.control, ourNamespace),
    cluster.get<V1DaemonSet>("DaemonSet", kubernetes.daemon, ourNamespace),
    cluster.get<V1DaemonSet>("DaemonSet", kubernetes.engine, ourNamespace),
    cluster.list<V1Pod>("Pod", { namespace: ourNamespace, labelSelector: PART_OF }),
  ]);
  return { control, daemon, engine, pods: pods ?? [] };
}

export const controlRollout = ({ control }: Parts): Rollout => deploymentRollout("control", control);

export const nodeRollouts = ({ daemon, engine }: Parts): Rollout[] => [
  daemonSetRollout("daemon", daemon),
  daemonSetRollout("engine", engine),
];

/** "daemon 1 of 2 ready; trackbed-system/x on node-b: engine: ImagePullBackOff". */
export function lookAt(rollouts: readonly Rollout[], pods: readonly V1Pod[]): Look {
  const counts = rollouts.map(({ name, ready, wanted }) => `${name} ${ready} of ${wanted} ready`);
  const stuck = pods
    .filter((pod) => !isReady(pod) && pod.metadata?.deletionTimestamp === undefined)
    .flatMap((pod) => {
      const why = whyNotReady(pod);
      return why === null ? [] : [`${nameOf(pod)} on ${pod.spec?.nodeName ?? "no node"}: ${why}`];
    });
  return { done: rollouts.every(({ done }) => done), text: counts.join(", "), stuck };
}

/** TAG of REGISTRY/trackbed:TAG. */
export const tagOf = (image: string): string => image.slice(image.lastIndexOf(":") + 1);

export const imageOf = (
  pod: { readonly spec?: { readonly containers: readonly { readonly image?: string }[] } | undefined } | undefined,
): string => pod?.spec?.containers[0]?.image ?? "";
