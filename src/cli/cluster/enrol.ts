// `trackbed enrol|unenrol NAMESPACE`: the label that takes a namespace in or out, what that would change, and how its pods follow.
import type { V1Namespace, V1NetworkPolicy, V1Pod } from "@kubernetes/client-node";
import { annotations, kubernetes, labels, product } from "#contract/tables.ts";
import { type EnrolmentPreview, previewEnrolment } from "#install/check/enrolment.ts";
import { networkPolicyFindings } from "#install/check/network-policy.ts";
import { policyFindings } from "#install/check/policies.ts";
import { type Finding, finding, sorted } from "#install/finding.ts";
import { isApiFailure } from "#source/kubernetes/failure.ts";
import { findingPage } from "../findings.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { table } from "../table.ts";
import { type Cluster, connect, type Held, type Target } from "./client.ts";
import { capturedCondition, readAdoption } from "./facts.ts";
import { type Look, sayOnStderr, waitFor } from "./wait.ts";

export type EnrolOptions = { readonly namespace: string; readonly dryRun: boolean; readonly timeoutMs: number };

const NEVER: readonly string[] = [product.controlPlaneNamespace, "kube-system"];

export async function runEnrol(target: Target, { namespace, dryRun, timeoutMs }: EnrolOptions, format: Format): Promise<Exit> {
  if (NEVER.includes(namespace)) throw usage(`pods of ${namespace} are never in the mesh`);
  const cluster = await connect(target);
  try {
    const { preview, findings } = await previewOf(cluster, namespace);
    if (dryRun) {
      if (format === "json")
        console.log(JSON.stringify({ namespace, changed: false, pods: preview.pods, findings: sorted(findings) }, null, 2));
      else console.log([podsPage(preview), findingPage(findings), "Nothing was changed."].filter(Boolean).join("\n\n"));
      return exit.ok;
    }
    if (findings.length > 0) sayOnStderr(findingPage(findings));
    await label(cluster, namespace, "enabled");
    const wanted = new Set(preview.pods.filter(({ enrolled }) => enrolled).map(({ name }) => name));
    const done = await follow(cluster, namespace, timeoutMs, (pods) => enteredOf(pods, wanted));
    if (format === "json")
      console.log(JSON.stringify({ namespace, changed: true, captured: done === null, reason: done, findings: sorted(findings) }, null, 2));
    else console.log(done === null ? `namespace ${namespace} is in the mesh` : `namespace ${namespace} is labelled; ${done}`);
    return done === null ? exit.ok : exit.failed;
  } finally {
    await cluster.close();
  }
}

export async function runUnenrol(target: Target, { namespace, dryRun, timeoutMs }: EnrolOptions, format: Format): Promise<Exit> {
  const cluster = await connect(target);
  try {
    const [, pods] = await read(cluster, namespace);
    const inside = pods.filter((pod) => capturedCondition(pod) !== undefined);
    const own = pods.filter(({ metadata }) => metadata?.labels?.[labels.mesh] === "enabled").map(({ metadata }) => metadata?.name ?? "");
    if (!dryRun) await label(cluster, namespace, null);
    const done = dryRun ? null : await follow(cluster, namespace, timeoutMs, (now) => leftOf(now, new Set(own)));
    const names = inside.map(({ metadata }) => metadata?.name ?? "");
    if (format === "json")
      console.log(
        JSON.stringify({ namespace, changed: !dryRun, pods: names, stay: own, released: done === null && !dryRun, reason: done }, null, 2),
      );
    else {
      console.log(
        dryRun
          ? `these pods would leave the mesh: ${names.join(", ") || "none"}`
          : done === null
            ? `namespace ${namespace} is out of the mesh`
            : `the label is gone; ${done}`,
      );
      if (own.length > 0) console.log(`labelled by themselves, so they stay in the mesh: ${own.join(", ")}`);
    }
    return done === null ? exit.ok : exit.failed;
  } finally {
    await cluster.close();
  }
}

async function read(cluster: Cluster, name: string): Promise<[V1Namespace, V1Pod[]]> {
  const [namespace, pods] = await Promise.all([
    cluster.get<V1Namespace>("Namespace", name),
    cluster.list<V1Pod>("Pod", { namespace: name }),
  ]);
  if (namespace === null) throw new Error(`there is no namespace ${name}`);
  return [namespace, pods ?? []];
}

async function previewOf(cluster: Cluster, name: string): Promise<{ preview: EnrolmentPreview; findings: Finding[] }> {
  const [[namespace, pods], networkPolicies, authorization, peer, adopt] = await Promise.all([
    read(cluster, name),
    cluster.list<V1NetworkPolicy>("NetworkPolicy", { namespace: name }),
    cluster.list<Held>("AuthorizationPolicy", { namespace: name }),
    cluster.list<Held>("PeerAuthentication", { namespace: name }),
    readAdoption(cluster).catch(ofForbidden),
  ]);
  const preview = previewEnrolment(namespace, pods, adopt ?? "none");
  const enrolled = new Set(preview.pods.filter((pod) => pod.enrolled).map((pod) => pod.name));
  const versioned = (kind: string, items: readonly Held[] | null) =>
    (items ?? []).map((item) => ({ ...item, kind, apiVersion: "security.istio.io/v1" }));
  const findings = [
    ...(adopt === null ? [finding("CLUSTER_FORBIDDEN", `Deployment ${kubernetes.control}`, UNREAD)] : []),
    ...preview.findings,
    ...networkPolicyFindings(
      networkPolicies ?? [],
      pods.filter(({ metadata }) => enrolled.has(metadata?.name ?? "")),
    ),
    ...policyFindings(
      [...versioned("AuthorizationPolicy", authorization), ...versioned("PeerAuthentication", peer)],
      () => true,
      product.controlPlaneNamespace,
    ),
  ];
  return { preview, findings };
}

const UNREAD = "this account may not read it, so only our own labels were looked at";

/** Who may label a namespace may not always read what is installed. */
function ofForbidden(error: unknown): null {
  if (isApiFailure(error) && error.code === "E_API_FORBIDDEN") return null;
  throw error;
}

const podsPage = ({ pods }: EnrolmentPreview): string =>
  pods.length === 0
    ? "the namespace has no pods"
    : table(
        ["POD", "IN THE MESH", "WHY"],
        pods.map(({ name, enrolled, reason }) => [name, enrolled ? "yes" : "no", reason]),
      );

/** null takes the label away, and a bypass with it. */
const label = (cluster: Cluster, namespace: string, value: "enabled" | null): Promise<void> =>
  cluster.merge("Namespace", namespace, {
    metadata: { labels: { [labels.mesh]: value }, ...(value === null ? { annotations: { [annotations.bypassUntil]: null } } : {}) },
  });

/** Null when it came to its end, else how far it is. */
async function follow(
  cluster: Cluster,
  namespace: string,
  timeoutMs: number,
  judge: (pods: readonly V1Pod[]) => Look,
): Promise<string | null> {
  try {
    await waitFor(async () => judge((await cluster.list<V1Pod>("Pod", { namespace })) ?? []), timeoutMs, sayOnStderr);
    return null;
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith("not within")) throw error;
    return error.message;
  }
}

/** Of the pods that are still there. */
export function enteredOf(pods: readonly V1Pod[], wanted: ReadonlySet<string>): Look {
  const here = pods.filter(({ metadata }) => wanted.has(metadata?.name ?? "") && metadata?.deletionTimestamp === undefined);
  const ready = here.filter((pod) => capturedCondition(pod)?.status === "True");
  const why = here.flatMap((pod) => {
    const condition = capturedCondition(pod);
    return condition === undefined || condition.status === "True"
      ? []
      : [`${pod.metadata?.name}: ${condition.message ?? ""} (${condition.reason})`];
  });
  return { done: ready.length === here.length, text: `${ready.length} of ${here.length} pods are in the mesh`, stuck: why };
}

export function leftOf(pods: readonly V1Pod[], stay: ReadonlySet<string>): Look {
  const inside = pods.filter((pod) => capturedCondition(pod) !== undefined && !stay.has(pod.metadata?.name ?? ""));
  return {
    done: inside.length === 0,
    text:
      inside.length === 0
        ? "every pod has left"
        : `${inside.length} pods are still leaving: ${inside.map(({ metadata }) => metadata?.name).join(", ")}`,
  };
}
