// `trackbed check`: everything that stands against the mesh, or is wrong with it, each with a stable code and the next step.
import { kubernetes, annotations as names } from "#contract/tables.ts";
import { conditionFindings } from "#install/check/policies.ts";
import { checks, type Finding, finding } from "#install/finding.ts";
import { isReady, nodeReports, partOf, whyNotReady } from "#install/rollout.ts";
import { tell } from "../findings.ts";
import type { Exit, Format } from "../outcome.ts";
import { connect, type Target } from "./client.ts";
import { capturedCondition, clusterFindings, type Facts, isWanted, linuxNodes, readFacts } from "./facts.ts";
import { controlRollout, imageOf, type Parts, readParts, tagOf } from "./parts.ts";

export async function runCheck(target: Target, format: Format): Promise<Exit> {
  const cluster = await connect(target);
  try {
    const [facts, parts] = await Promise.all([readFacts(cluster), readParts(cluster)]);
    return tell([...clusterFindings(facts), ...installedFindings(facts, parts)], format, "nothing stands against the mesh in this cluster");
  } finally {
    await cluster.close();
  }
}

/** How the installation itself is. */
export function installedFindings(facts: Facts, parts: Parts): Finding[] {
  const { control, daemon, engine, pods } = parts;
  const left = facts.pods.filter((pod) => capturedCondition(pod)?.status === "True");
  if (control === null && daemon === null && engine === null)
    return left.length === 0
      ? [finding("INSTALL_ABSENT", "cluster", "Trackbed is not installed")]
      : [
          finding(
            "UNINSTALL_LEFT",
            "cluster",
            `Trackbed was removed while ${left.length} pods were in the mesh: they refuse traffic until they are freed`,
          ),
        ];
  const missing = [
    ...(control === null
      ? [finding("CONTROL_NOT_READY", `Deployment ${kubernetes.control}`, "it is not there; trackbed install puts it back")]
      : []),
    ...(daemon === null
      ? [finding("DAEMON_NOT_READY", `DaemonSet ${kubernetes.daemon}`, "it is not there; trackbed install puts it back")]
      : []),
    ...(engine === null
      ? [finding("ENGINE_NOT_READY", `DaemonSet ${kubernetes.engine}`, "it is not there; trackbed install puts it back")]
      : []),
  ];
  const { ready, wanted, done } = controlRollout(parts);
  return [
    ...missing,
    ...(control !== null && !done
      ? [finding("CONTROL_NOT_READY", `Deployment ${kubernetes.control}`, `${ready} of ${wanted} replicas are ready`)]
      : []),
    ...(daemon === null
      ? []
      : [
          ...nodeReports(
            pods.filter((pod) => partOf(pod) === kubernetes.daemon),
            linuxNodes(facts),
          ),
          ...perNode(facts, parts, kubernetes.daemon, "DAEMON_NOT_READY"),
        ]),
    ...(engine === null ? [] : [...perNode(facts, parts, kubernetes.engine, "ENGINE_NOT_READY"), ...olderEngines(parts)]),
    ...facts.pods.flatMap((pod) => podFinding(facts, pod)),
    ...conditionFindings(facts.policies),
    ...facts.namespaces.flatMap(({ metadata }) => bypass(metadata?.name ?? "", metadata?.annotations ?? {})),
  ];
}

function perNode(facts: Facts, { pods }: Parts, part: string, code: "DAEMON_NOT_READY" | "ENGINE_NOT_READY"): Finding[] {
  return linuxNodes(facts).flatMap((node) => {
    const here = pods.filter((pod) => partOf(pod) === part && pod.spec?.nodeName === node);
    if (here.some(isReady)) return [];
    const [pod] = here;
    const why = pod === undefined ? "there is no pod of it on this node" : (whyNotReady(pod) ?? "it is starting");
    return [finding(code, `node ${node}`, `${part} is not ready: ${why}`)];
  });
}

function olderEngines({ engine, pods }: Parts): Finding[] {
  const wanted = tagOf(imageOf(engine?.spec?.template));
  return pods
    .filter((pod) => partOf(pod) === kubernetes.engine && tagOf(imageOf(pod)) !== wanted)
    .map((pod) =>
      finding(
        "ENGINE_OLDER",
        `pod ${pod.metadata?.namespace}/${pod.metadata?.name}`,
        `the engine of node ${pod.spec?.nodeName} is ${tagOf(imageOf(pod))}, not ${wanted}`,
      ),
    );
}

/** Of pods that run and should be in the mesh: what their condition says stands against it. */
function podFinding(facts: Facts, pod: Facts["pods"][number]): Finding[] {
  const condition = capturedCondition(pod);
  const isOver = pod.metadata?.deletionTimestamp !== undefined || pod.status?.phase !== "Running" || pod.spec?.hostNetwork === true;
  if (isOver || !isWanted(facts, pod) || condition?.status === "True") return [];
  if (condition === undefined) return []; // control says nothing of pods that are never in the mesh, and has not yet said it of new ones
  const subject = `pod ${pod.metadata?.namespace}/${pod.metadata?.name}`;
  return [finding("POD_NOT_CAPTURED", subject, `${condition.message ?? "no reason was given"} (${condition.reason})`)];
}

function bypass(name: string, annotations: Readonly<Record<string, string>>): Finding[] {
  const until = annotations[names.bypassUntil];
  if (until === undefined || !(Date.parse(until) > Date.now())) return [];
  return [
    {
      ...finding("BYPASS_ACTIVE", `namespace ${name}`, `it is out of the mesh until ${until}`),
      next: checks.BYPASS_ACTIVE.next.replace("NAMESPACE", name),
    },
  ];
}
