// `trackbed status` for a cluster: control, the nodes and the pods, from what the API server holds.
import { kubernetes } from "#contract/tables.ts";
import { hasErrors, sorted } from "#install/finding.ts";
import { isReady, partOf } from "#install/rollout.ts";
import { findingPage } from "../findings.ts";
import { type Exit, exit, type Format } from "../outcome.ts";
import { paint, table } from "../table.ts";
import { installedFindings } from "./check.ts";
import { connect, type Target } from "./client.ts";
import { capturedCondition, type Facts, isWanted, linuxNodes, readFacts } from "./facts.ts";
import { controlRollout, imageOf, type Parts, readParts, tagOf } from "./parts.ts";

export type ClusterStatus = {
  readonly control: { readonly ready: number; readonly wanted: number; readonly version: string };
  readonly nodes: readonly {
    readonly node: string;
    readonly daemon: PartStatus;
    readonly engine: PartStatus;
    readonly inMesh: number;
    readonly wanted: number;
  }[];
  readonly pods: readonly {
    readonly namespace: string;
    readonly name: string;
    readonly node: string;
    readonly captured: string;
    readonly reason: string;
    readonly message: string;
  }[];
};

type PartStatus = { readonly ready: boolean; readonly version: string } | null;

export async function runClusterStatus(target: Target, format: Format): Promise<Exit> {
  const cluster = await connect(target);
  try {
    const [facts, parts] = await Promise.all([readFacts(cluster), readParts(cluster)]);
    const findings = installedFindings(facts, parts);
    const status = statusOf(facts, parts);
    const healthy = !hasErrors(findings) && parts.control !== null;
    if (format === "json") console.log(JSON.stringify({ healthy, ...status, findings: sorted(findings) }, null, 2));
    else console.log([nodesPage(status), podsPage(status), findingPage(findings)].filter(Boolean).join("\n\n"));
    return healthy ? exit.ok : exit.failed;
  } finally {
    await cluster.close();
  }
}

export function statusOf(facts: Facts, parts: Parts): ClusterStatus {
  const { ready, wanted } = controlRollout(parts);
  const wantedPods = facts.pods
    .filter((pod) => isWanted(facts, pod) || capturedCondition(pod) !== undefined)
    .filter(({ spec, status }) => spec?.hostNetwork !== true && !["Succeeded", "Failed"].includes(status?.phase ?? ""));
  const part = (name: string, node: string): PartStatus => {
    const pod = parts.pods.find((one) => partOf(one) === name && one.spec?.nodeName === node);
    return pod === undefined ? null : { ready: isReady(pod), version: tagOf(imageOf(pod)) };
  };
  return {
    control: { ready, wanted: parts.control === null ? 0 : wanted, version: tagOf(imageOf(parts.control?.spec?.template)) },
    nodes: linuxNodes(facts).map((node) => {
      const here = wantedPods.filter(({ spec }) => spec?.nodeName === node);
      return {
        node,
        daemon: part(kubernetes.daemon, node),
        engine: part(kubernetes.engine, node),
        inMesh: here.filter((pod) => capturedCondition(pod)?.status === "True").length,
        wanted: here.length,
      };
    }),
    pods: wantedPods.map((pod) => {
      const { status = "-", reason = "-", message = "" } = capturedCondition(pod) ?? {};
      return {
        namespace: pod.metadata?.namespace ?? "",
        name: pod.metadata?.name ?? "",
        node: pod.spec?.nodeName ?? "",
        captured: status,
        reason,
        message,
      };
    }),
  };
}

const partText = (part: PartStatus): string =>
  part === null ? paint("none", "red") : `${paint(part.ready ? "ready" : "not ready", part.ready ? "green" : "red")} ${part.version}`;

function nodesPage({ control, nodes }: ClusterStatus): string {
  const rows = nodes.map(({ node, daemon, engine, inMesh, wanted }) => [node, partText(daemon), partText(engine), `${inMesh}/${wanted}`]);
  return `control: ${control.ready} of ${control.wanted} ready${control.version === "" ? "" : `, ${control.version}`}\n\n${table(["NODE", "DAEMON", "ENGINE", "PODS IN THE MESH"], rows)}`;
}

function podsPage({ pods }: ClusterStatus): string {
  if (pods.length === 0) return "";
  const rows = [...pods]
    .sort((a, b) => `${a.namespace}/${a.name}`.localeCompare(`${b.namespace}/${b.name}`))
    .map(({ namespace, name, node, captured, reason }) => [
      `${namespace}/${name}`,
      node,
      paint(captured, captured === "True" ? "green" : "yellow"),
      reason,
    ]);
  return table(["POD", "NODE", "CAPTURED", "REASON"], rows);
}
