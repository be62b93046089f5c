// `trackbed uninstall`: takes every pod out of the mesh, then the mesh out of the cluster. Works whatever was deleted by hand before: what the
// daemons need to leave is put back first.
import type { V1DaemonSet, V1Namespace, V1Node, V1Pod } from "@kubernetes/client-node";
import { kubernetes, labels } from "#contract/tables.ts";
import { baseFiles, crdFiles } from "#install/files.ts";
import type { KindName } from "#install/kinds.ts";
import { CLEANER, cleaning, leaving } from "#install/leave.ts";
import { clusterScoped, isOurs, ourNamespace, PART_OF } from "#install/plan.ts";
import { type Manifest, objectsOf, renderFiles } from "#install/render.ts";
import { daemonSetRollout, partOf } from "#install/rollout.ts";
import type { Values } from "#install/values.ts";
import { type Exit, exit, type Format } from "../outcome.ts";
import { type Cluster, connect, type Held, type Target } from "./client.ts";
import { capturedCondition } from "./facts.ts";
import { imageOf, lookAt, tagOf } from "./parts.ts";
import { type Say, sayOnStderr, waitFor } from "./wait.ts";

export type UninstallOptions = {
  /** Where the installation itself does not say it any more. */
  readonly values: Values;
  readonly drainSeconds: number;
  readonly timeoutMs: number;
  readonly dryRun: boolean;
};

export async function runUninstall(target: Target, options: UninstallOptions, format: Format): Promise<Exit> {
  const cluster = await connect(target);
  try {
    const found = await survey(cluster);
    if (!found.any) {
      console.log(format === "json" ? JSON.stringify({ uninstalled: true, found: false }) : "nothing of Trackbed is in this cluster");
      return exit.ok;
    }
    if (options.dryRun) {
      const plan = {
        pods: found.pods.map(nameOf),
        namespaces: found.namespaces.map(({ metadata }) => metadata.name),
        crds: found.crds.map(({ metadata }) => metadata.name),
      };
      console.log(
        format === "json"
          ? JSON.stringify({ uninstalled: false, ...plan }, null, 2)
          : `would take ${plan.pods.length} pods out of the mesh and delete namespace ${ourNamespace} with everything of ours`,
      );
      return exit.ok;
    }
    const values = { ...options.values, ...valuesOf(found.daemon) };
    await uninstall(cluster, objectsOf(renderFiles(baseFiles(), values)), options, sayOnStderr);
    const kept = await afterwards(cluster, found.crds, sayOnStderr);
    if (format === "json") console.log(JSON.stringify({ uninstalled: true, found: true, ...kept }, null, 2));
    else console.log(["Trackbed is gone", ...keptLines(kept)].join("\n"));
    return exit.ok;
  } finally {
    await cluster.close();
  }
}

type Found = {
  readonly any: boolean;
  readonly daemon: V1DaemonSet | null;
  readonly pods: readonly V1Pod[];
  readonly namespaces: readonly Held[];
  readonly crds: readonly Held[];
};

async function survey(cluster: Cluster): Promise<Found> {
  const [namespace, daemon, pods, namespaces, crds, roles, admissions] = await Promise.all([
    cluster.get<Held>("Namespace", ourNamespace),
    cluster.get<V1DaemonSet>("DaemonSet", kubernetes.daemon, ourNamespace),
    cluster.list<V1Pod>("Pod"),
    cluster.list<Held>("Namespace", { labelSelector: labels.mesh }),
    cluster.list<Held>("CustomResourceDefinition", { labelSelector: PART_OF }),
    cluster.list<Held>("ClusterRole", { labelSelector: PART_OF }),
    cluster.list<Held>("ValidatingAdmissionPolicy", { labelSelector: PART_OF }),
  ]);
  const captured = (pods ?? []).filter((pod) => capturedCondition(pod) !== undefined);
  const any = namespace !== null || captured.length > 0 || [crds, roles, admissions].some((list) => (list ?? []).length > 0);
  return {
    any,
    daemon,
    pods: captured,
    namespaces: (namespaces ?? []).filter(({ metadata }) => metadata.name !== ourNamespace),
    crds: crds ?? [],
  };
}

/** What the installation was made with, as far as its DaemonSet still says it. */
export function valuesOf(daemon: V1DaemonSet | null): Partial<Values> {
  const spec = daemon?.spec?.template.spec;
  if (spec === undefined) return {};
  const image = imageOf({ spec });
  const path = (name: string): string | undefined => spec.volumes?.find((volume) => volume.name === name)?.hostPath?.path;
  const [cniBin, cniConf] = [path("cni-bin"), path("cni-conf")];
  return {
    registry: image.slice(0, image.lastIndexOf("/")),
    tag: tagOf(image),
    imagePullSecrets: (spec.imagePullSecrets ?? []).flatMap(({ name }) => name ?? []),
    ...(cniBin === undefined ? {} : { cniBin }),
    ...(cniConf === undefined ? {} : { cniConf }),
  };
}

/** Rejects, naming the nodes, before anything is deleted when a node's daemon could not leave in time. */
export async function uninstall(
  cluster: Cluster,
  manifests: readonly Manifest[],
  { drainSeconds, timeoutMs }: Pick<UninstallOptions, "drainSeconds" | "timeoutMs">,
  say: Say,
): Promise<void> {
  await namespaceSettled(cluster, timeoutMs, say);
  say("every daemon takes its pods out of the mesh");
  for (const manifest of leaving(manifests, drainSeconds)) await cluster.apply(manifest);
  await rolledOut(cluster, kubernetes.daemon, timeoutMs, say);
  await conditionsGone(cluster, say);
  say("daemons, engines and control end");
  for (const name of [kubernetes.engine, kubernetes.daemon]) await cluster.remove("DaemonSet", name, ourNamespace);
  await cluster.remove("Deployment", kubernetes.control, ourNamespace);
  const ending: readonly string[] = [kubernetes.engine, kubernetes.daemon, kubernetes.control];
  await waitFor(
    async () => {
      const pods = (await cluster.list<V1Pod>("Pod", { namespace: ourNamespace, labelSelector: PART_OF })) ?? [];
      const left = pods.filter((pod) => ending.includes(partOf(pod)));
      return { done: left.length === 0, text: `${left.length} pods of daemons, engines and control are left` };
    },
    timeoutMs,
    say,
  );
  const nodes = (await cluster.list<V1Node>("Node")) ?? [];
  for (const manifest of cleaning(manifests, nodes.every(readsChainsAnew))) await cluster.apply(manifest);
  await rolledOut(cluster, CLEANER, timeoutMs, say);
  say("names and rights go");
  for (const { kind, metadata } of clusterScoped(manifests)) await cluster.remove(kind as KindName, metadata.name);
  await cluster.remove("Namespace", ourNamespace);
  await namespaceSettled(cluster, timeoutMs, say);
  await waypointsGone(cluster, say); // now that nobody puts them back
}

const MADE = `app.kubernetes.io/managed-by=${kubernetes.fieldManager}`;

/** What control made for Gateways; those that people wrote stay, and do nothing. */
async function waypointsGone(cluster: Cluster, say: Say): Promise<void> {
  let gone = 0;
  for (const kind of ["Gateway", "Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "ConfigMap"] as const)
    for (const { metadata } of (await cluster.list<Held>(kind, { labelSelector: MADE })) ?? []) {
      await cluster.remove(kind, metadata.name, metadata.namespace);
      gone++;
    }
  if ((await cluster.get("GatewayClass", kubernetes.waypointClass)) !== null)
    await cluster.remove("GatewayClass", kubernetes.waypointClass);
  if (gone > 0) say(`${gone} objects of waypoints removed`);
}

/** containerd ends a pod with the chain that is configured then; of others that is not known. */
const readsChainsAnew = ({ status }: V1Node): boolean => status?.nodeInfo?.containerRuntimeVersion.startsWith("containerd://") === true;

/** Nothing can be made in a namespace that is being deleted: it has to be gone first. */
async function namespaceSettled(cluster: Cluster, timeoutMs: number, say: Say): Promise<void> {
  await waitFor(
    async () => {
      const namespace = await cluster.get<V1Namespace>("Namespace", ourNamespace);
      const ends = namespace?.metadata?.deletionTimestamp !== undefined;
      return {
        done: !ends,
        text: ends ? `namespace ${ourNamespace} is being deleted` : `namespace ${ourNamespace} is ${namespace === null ? "gone" : "there"}`,
      };
    },
    timeoutMs,
    say,
  );
}

async function rolledOut(cluster: Cluster, name: string, timeoutMs: number, say: Say): Promise<void> {
  await waitFor(
    async () => {
      const [set, pods] = await Promise.all([
        cluster.get<V1DaemonSet>("DaemonSet", name, ourNamespace),
        cluster.list<V1Pod>("Pod", { namespace: ourNamespace, labelSelector: `app.kubernetes.io/name=${name}` }),
      ]);
      return lookAt([daemonSetRollout(name, set)], pods ?? []);
    },
    timeoutMs,
    say,
  ).catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(
      `${reason}. Nothing was deleted: run this again when the node is back, or free it there with /opt/cni/bin/trackbed-cni rescue`,
      { cause: error },
    );
  });
}

/** Control takes them off while it lives; where it does not, nobody else would. */
const CONDITIONS_MS = 10_000;

async function conditionsGone(cluster: Cluster, say: Say): Promise<void> {
  const marked = async (): Promise<V1Pod[]> =>
    ((await cluster.list<V1Pod>("Pod")) ?? []).filter((pod) => capturedCondition(pod) !== undefined);
  const seen = async () => {
    const pods = await marked();
    return { done: pods.length === 0, text: `${pods.length} pods still say that they are in the mesh` };
  };
  const control = await cluster.get("Deployment", kubernetes.control, ourNamespace);
  await waitFor(seen, control === null ? 0 : CONDITIONS_MS, say).catch(async () => {
    for (const pod of await marked())
      await cluster.removeCondition(pod.metadata?.namespace ?? "", pod.metadata?.name ?? "", kubernetes.capturedCondition);
  });
}

type Kept = { readonly crds: readonly string[]; readonly labels: readonly string[] };

/** Policies that people wrote are theirs, and so are labels that they set. */
async function afterwards(cluster: Cluster, crds: readonly Held[], say: Say): Promise<Kept> {
  const kept: { crds: string[]; labels: string[] } = { crds: [], labels: [] };
  const names = new Set(objectsOf(crdFiles()).map(({ metadata }) => metadata.name));
  for (const crd of crds.filter((one) => isOurs(one) && names.has(one.metadata.name))) {
    const kind = (crd["spec"] as { readonly names: { readonly kind: KindName } }).names.kind;
    const objects = (await cluster.list(kind)) ?? [];
    if (objects.length === 0) await cluster.remove("CustomResourceDefinition", crd.metadata.name);
    else kept.crds.push(`${crd.metadata.name} (${objects.length} objects)`);
  }
  for (const namespace of (await cluster.list<Held>("Namespace", { labelSelector: labels.mesh })) ?? []) {
    const { name } = namespace.metadata;
    if (setByUs(namespace)) {
      await cluster.merge("Namespace", name, { metadata: { labels: { [labels.mesh]: null } } });
      say(`label of namespace ${name} removed`);
    } else kept.labels.push(name);
  }
  return kept;
}

/** The label came by `trackbed enrol`, and nobody else has claimed it since. */
export function setByUs({ metadata }: Held): boolean {
  const owners = (metadata.managedFields ?? []).filter(({ fieldsV1 }) => JSON.stringify(fieldsV1 ?? {}).includes(`"f:${labels.mesh}"`));
  return owners.length > 0 && owners.every(({ manager }) => manager === kubernetes.fieldManager);
}

const keptLines = ({ crds, labels: namespaces }: Kept): string[] => [
  ...(crds.length === 0 ? [] : [`kept, because objects of yours exist: ${crds.join(", ")}`]),
  ...(namespaces.length === 0 ? [] : [`kept, because you set it: the label ${labels.mesh} of ${namespaces.join(", ")}`]),
];

const nameOf = ({ metadata }: V1Pod): string => `${metadata?.namespace}/${metadata?.name}`;
