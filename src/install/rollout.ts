// How far an installation is, from what the API server says of its Deployment, DaemonSets and pods. Pure: the same answer for install,
// uninstall, check and status.
import type { V1DaemonSet, V1Deployment, V1Pod } from "@kubernetes/client-node";
import { type Finding, finding } from "./finding.ts";
import { parseReport, reportFindings } from "./node-report.ts";

/** Of one reason; the whole text is in the pod's status. */
const SHOWN_CHARACTERS = 160;

export type Rollout = {
  readonly name: string;
  readonly ready: number;
  readonly wanted: number;
  /** All wanted are there, of the newest template where the set replaces its pods by itself, and ready. */
  readonly done: boolean;
};

export function deploymentRollout(name: string, deployment: V1Deployment | null): Rollout {
  const wanted = deployment?.spec?.replicas ?? 1;
  const { observedGeneration = 0, updatedReplicas = 0, readyReplicas = 0, availableReplicas = 0, replicas = 0 } = deployment?.status ?? {};
  const seen = deployment !== null && observedGeneration >= (deployment.metadata?.generation ?? 0);
  const done = seen && updatedReplicas === wanted && availableReplicas >= wanted && replicas === wanted;
  return { name, ready: seen ? Math.min(readyReplicas, updatedReplicas) : 0, wanted, done };
}

export function daemonSetRollout(name: string, set: V1DaemonSet | null): Rollout {
  const {
    observedGeneration = 0,
    desiredNumberScheduled: wanted = 0,
    numberReady = 0,
    updatedNumberScheduled = 0,
    currentNumberScheduled = 0,
  } = set?.status ?? {};
  const seen = set !== null && observedGeneration >= (set.metadata?.generation ?? 0);
  const rolls = set?.spec?.updateStrategy?.type !== "OnDelete";
  const current = rolls ? updatedNumberScheduled : currentNumberScheduled;
  return { name, ready: seen ? Math.min(numberReady, current) : 0, wanted, done: seen && numberReady === wanted && current === wanted };
}

export const nameOf = (pod: V1Pod): string => `${pod.metadata?.namespace}/${pod.metadata?.name}`;

/** "app.kubernetes.io/name" of one of our pods. */
export const partOf = (pod: V1Pod): string => pod.metadata?.labels?.["app.kubernetes.io/name"] ?? "";

export const isReady = (pod: V1Pod): boolean =>
  pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;

/** What the newest check of each node said, and which nodes have not been checked. */
export function nodeReports(pods: readonly V1Pod[], nodes: readonly string[]): Finding[] {
  return nodes.flatMap((node) => {
    const states = pods
      .filter(({ spec }) => spec?.nodeName === node)
      .flatMap(({ status }) => status?.initContainerStatuses ?? [])
      .filter(({ name }) => name === "check");
    const messages = states.flatMap(({ state, lastState }) => [state?.terminated?.message, lastState?.terminated?.message]);
    const report = messages.map((message) => (message === undefined ? null : parseReport(message))).find((one) => one !== null);
    return report === undefined || report === null
      ? [finding("NODE_UNCHECKED", `node ${node}`, "no check of this node has been reported")]
      : reportFindings(node, report);
  });
}

/** Why a pod of ours is not ready, in the words of kubelet and scheduler; null while it is only on its way. */
export function whyNotReady(pod: V1Pod): string | null {
  const { initContainerStatuses = [], containerStatuses = [], conditions = [] } = pod.status ?? {};
  for (const { name, state, lastState, ready } of [...initContainerStatuses, ...containerStatuses]) {
    const { waiting } = state ?? {};
    const ended = state?.terminated ?? lastState?.terminated;
    if (ready || ended?.exitCode === 0) continue;
    if (ended !== undefined)
      return `${name} ended with ${ended.exitCode}${textOf(ended.message)}${waiting?.reason === undefined ? "" : ` (${waiting.reason})`}`;
    if (waiting?.reason !== undefined && !["PodInitializing", "ContainerCreating"].includes(waiting.reason))
      return `${name}: ${waiting.reason}${textOf(waiting.message)}`;
  }
  const unscheduled = conditions.find(({ type, status }) => type === "PodScheduled" && status === "False");
  return unscheduled === undefined ? null : `not scheduled${textOf(unscheduled.message)}`;
}

/** A node's report is told as findings, not as the JSON that it travels in. */
function textOf(message: string | undefined): string {
  if (message === undefined || message === "") return "";
  const report = parseReport(message);
  return `: ${report === null ? message.trim() : report.found.map(({ code, message }) => `${message.slice(0, SHOWN_CHARACTERS)} (${code})`).join("; ")}`;
}
