// `trackbed waypoint apply|list|status|delete`: the Gateway that makes a namespace's waypoint, and how far it has come.
import type { V1Namespace, V1Pod, V1Service } from "@kubernetes/client-node";
import { kubernetes, labels, ports } from "#contract/tables.ts";
import type { Manifest } from "#install/render.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { type Applied, type Cluster, connect, type Target } from "./client.ts";
import { type Look, sayOnStderr, waitFor } from "./wait.ts";
import { type GatewayObject, listPage, type RouteObject, statusPage, type WaypointView, waypointsOf } from "./waypoint-view.ts";

export type WaypointName = { readonly namespace: string; readonly name: string };
export type ApplyOptions = WaypointName & { readonly use: boolean; readonly dryRun: boolean; readonly timeoutMs: number };
export type DeleteOptions = WaypointName & { readonly force: boolean };

export async function runWaypointApply(target: Target, options: ApplyOptions, format: Format): Promise<Exit> {
  const { namespace, name, use, dryRun, timeoutMs } = options;
  if (dryRun) {
    console.log(JSON.stringify(gatewayOf(options), null, 2));
    return exit.ok;
  }
  return withCluster(target, async (cluster) => {
    await requireKinds(cluster);
    if ((await cluster.get<V1Namespace>("Namespace", namespace)) === null) throw new Error(`there is no namespace ${namespace}`);
    const applied = await applyWaypoint(cluster, options);
    let waiting: string | null = null;
    await waitFor(async () => progress(await one(cluster, options)), timeoutMs, sayOnStderr).catch((error: unknown) => {
      if (!(error instanceof Error) || !error.message.startsWith("not within")) throw error;
      waiting = error.message;
    });
    // Last: before it is there, nobody should be told to go through it.
    if (use && waiting === null)
      await cluster.merge("Namespace", namespace, {
        metadata: { labels: { [labels.useWaypoint]: name, [labels.useWaypointNamespace]: null } },
      });
    const used = use && waiting === null;
    if (format === "json")
      console.log(JSON.stringify({ namespace, name, applied, programmed: waiting === null, used, reason: waiting }, null, 2));
    else console.log(applyPage(options, applied, waiting));
    return waiting === null ? exit.ok : exit.failed;
  });
}

export const runWaypointList = (target: Target, namespace: string | undefined, format: Format): Promise<Exit> =>
  withCluster(target, async (cluster) => {
    const waypoints = await read(cluster, namespace);
    console.log(format === "json" ? JSON.stringify({ waypoints }, null, 2) : listPage(waypoints));
    return waypoints.every(({ programmed }) => programmed) ? exit.ok : exit.failed;
  });

export const runWaypointStatus = (target: Target, asked: WaypointName, format: Format): Promise<Exit> =>
  withCluster(target, async (cluster) => {
    const found = await one(cluster, asked);
    if (found === null) throw absent(asked);
    console.log(format === "json" ? JSON.stringify(found, null, 2) : statusPage(found));
    return found.programmed && found.pods.some(({ ready }) => ready) ? exit.ok : exit.failed;
  });

export const runWaypointDelete = (target: Target, options: DeleteOptions, format: Format): Promise<Exit> =>
  withCluster(target, async (cluster) => {
    const { namespace, name, users } = await deleteWaypoint(cluster, options);
    if (format === "json") console.log(JSON.stringify({ namespace, name, deleted: true, users }, null, 2));
    else console.log(`waypoint ${namespace}/${name} goes, with everything that was made for it`);
    return exit.ok;
  });

/** Whoever still names it would be left with the name of nothing. */
export async function deleteWaypoint(cluster: Cluster, { force, ...asked }: DeleteOptions): Promise<WaypointView> {
  const found = await one(cluster, asked);
  if (found === null) throw absent(asked);
  if (found.users.length > 0 && !force) {
    const next = `take the label ${labels.useWaypoint} off them first, or say --force`;
    throw new Error(`waypoint ${asked.namespace}/${asked.name} is still named by ${found.users.join(", ")}: ${next}`);
  }
  await cluster.remove("Gateway", asked.name, asked.namespace);
  return found;
}

/** What somebody who writes it by hand would write. */
export const gatewayOf = ({ namespace, name }: WaypointName): Manifest => ({
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "Gateway",
  metadata: { name, namespace },
  spec: { gatewayClassName: kubernetes.waypointClass, listeners: [{ name: "mesh", port: ports.hbone, protocol: "HBONE" }] },
});

/** A Gateway of another class under that name is somebody else's. */
export async function applyWaypoint(cluster: Cluster, options: WaypointName): Promise<Applied> {
  const before = await cluster.get<GatewayObject>("Gateway", options.name, options.namespace);
  const other = before?.spec?.gatewayClassName;
  if (other !== undefined && other !== kubernetes.waypointClass)
    throw usage(`Gateway ${options.namespace}/${options.name} is of class ${other}: give the waypoint another name`);
  return cluster.apply(gatewayOf(options));
}

async function requireKinds(cluster: Cluster): Promise<void> {
  if ((await cluster.list("GatewayClass")) === null)
    throw new Error(
      "the cluster has no Gateway API: install its standard channel (https://gateway-api.sigs.k8s.io/guides/), then ask again",
    );
  if ((await cluster.get("GatewayClass", kubernetes.waypointClass)) === null)
    throw new Error(`there is no GatewayClass ${kubernetes.waypointClass}: control makes it; see trackbed check`);
}

async function read(cluster: Cluster, namespace?: string): Promise<readonly WaypointView[]> {
  const where = namespace === undefined ? {} : { namespace };
  const [gateways, namespaces, services, pods, routes] = await Promise.all([
    cluster.list<GatewayObject>("Gateway", where),
    cluster.list<V1Namespace>("Namespace"),
    // Others may name it too.
    cluster.list<V1Service>("Service", { labelSelector: labels.useWaypoint }),
    Promise.all([
      cluster.list<V1Pod>("Pod", { ...where, labelSelector: kubernetes.gatewayNameLabel }),
      cluster.list<V1Pod>("Pod", { labelSelector: labels.useWaypoint }),
    ]),
    Promise.all((["HTTPRoute", "GRPCRoute"] as const).map(async (kind) => ofKind(kind, await cluster.list<RouteObject>(kind, where)))),
  ]);
  return waypointsOf({
    gateways: gateways ?? [],
    namespaces: namespaces ?? [],
    services: services ?? [],
    pods: pods.flatMap((some) => some ?? []),
    routes: routes.flat(),
  });
}

/** Items of a list do not say of what kind they are. */
const ofKind = (kind: string, items: readonly RouteObject[] | null): readonly RouteObject[] =>
  (items ?? []).map((item) => ({ ...item, kind }));

const one = async (cluster: Cluster, { namespace, name }: WaypointName): Promise<WaypointView | null> =>
  (await read(cluster, namespace)).find((waypoint) => waypoint.name === name) ?? null;

const absent = ({ namespace, name }: WaypointName): Error =>
  new Error(`namespace ${namespace} has no waypoint ${name}; see trackbed waypoint list`);

export function progress(found: WaypointView | null): Look {
  if (found === null) return { done: false, text: "the Gateway is not to be seen yet" };
  const ready = found.pods.filter(({ ready }) => ready).length;
  const stuck = found.conditions
    .filter(({ status }) => status === "False")
    .map(({ type, reason = "", message = "" }) => `${type}: ${message} (${reason})`);
  const done = found.programmed && ready > 0;
  const text = found.pods.length === 0 ? "no pod of the waypoint yet" : `${ready} of ${found.pods.length} pods of the waypoint are ready`;
  return { done, text: done ? "the waypoint is programmed" : text, stuck };
}

function applyPage({ namespace, name, use }: ApplyOptions, applied: Applied, waiting: string | null): string {
  const what = `waypoint ${namespace}/${name} ${applied}`;
  if (waiting !== null) return `${what}; ${waiting}`;
  if (use) return `${what}; every service of namespace ${namespace} is reached through it`;
  return `${what}; label a namespace or service to use it: kubectl label namespace ${namespace} ${labels.useWaypoint}=${name}`;
}

async function withCluster(target: Target, act: (cluster: Cluster) => Promise<Exit>): Promise<Exit> {
  const cluster = await connect(target);
  try {
    return await act(cluster);
  } finally {
    await cluster.close();
  }
}
