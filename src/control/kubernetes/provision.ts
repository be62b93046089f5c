// Makes waypoints: for each Gateway of our class the objects of its plan, put back when somebody changed them, by the replica that holds the Lease.
import { z } from "zod";
import { kubernetes, product } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import type { Gateway } from "#mesh/gateway.ts";
import { keyOf, type ObjectKey } from "#mesh/objects.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";
import type { Change } from "#source/source.ts";
import {
  autoGateway,
  gatewayClass,
  type ImageSettings,
  isAuto,
  type Manifest,
  NO_PARAMETERS,
  type Parameters,
  parseParameters,
  planOf,
  rootsOf,
} from "#waypoint/plan.ts";
import { type Waypoint, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import { createWriter, type WriterTimes } from "./writer.ts";

export type ProvisionOptions = {
  readonly api: Api;
  /** Control's own. */
  readonly namespace: string;
  readonly image: () => Promise<ImageSettings>;
  readonly roots: () => string;
  readonly isLeader: () => boolean;
  readonly onMade: (key: WaypointKey, what: string) => void;
  /** What stands against a waypoint changed; null: nothing any more. */
  readonly onProblem: (key: WaypointKey, error: unknown) => void;
  /** The class of our waypoints is there as it should be; or it could not be made. */
  readonly onClass: (error: unknown) => void;
  readonly sweepMilliseconds?: number;
  readonly idleMilliseconds?: number;
  readonly times?: WriterTimes;
};

export type Provision = {
  /** What waypoints there should be. */
  changed(waypoints: readonly Waypoint[]): void;
  /** A batch of the source: whose Service or pod it touches is looked at now and not only at the next sweep. */
  noticed(change: Pick<Change, "put" | "remove">): void;
  elected(): void;
  pending(): number;
  idle(): Promise<void>;
};

/** What somebody changed by hand is put back within this time, and at once when it was the Service or took the pods away. */
const SWEEP_MILLISECONDS = 60_000;
/** Whoever installs the Gateway API wants to make a waypoint soon after. */
const CLASS_MILLISECONDS = 15_000;
/** A namespace that is redeployed needs no waypoint for a moment: its waypoint is not taken away and made again for that. */
const IDLE_MILLISECONDS = 30_000;
/** A waypoint costs a dozen calls; this is ten waypoints a second. */
const TIMES: WriterTimes = { perSecond: 10, retryMilliseconds: { first: 1_000, most: 60_000 } };

/** The cluster must be able to heal itself, and the mesh to start, without the mesh. */
const NEVER: readonly string[] = [product.controlPlaneNamespace, "kube-system"];

const CLASS: WaypointKey = "/class";
const CONFIG_MAPS = { root: "/api/v1", plural: "configmaps" };
const GATEWAYS = { root: "/apis/gateway.networking.k8s.io/v1", plural: "gateways" };
const CLASSES = `${GATEWAYS.root}/gatewayclasses`;
const PLACES: Readonly<Record<string, { readonly root: string; readonly plural: string }>> = {
  ServiceAccount: { root: "/api/v1", plural: "serviceaccounts" },
  Service: { root: "/api/v1", plural: "services" },
  ConfigMap: CONFIG_MAPS,
  Deployment: { root: "/apis/apps/v1", plural: "deployments" },
  PodDisruptionBudget: { root: "/apis/policy/v1", plural: "poddisruptionbudgets" },
  Gateway: GATEWAYS,
};

const owned = z.object({
  metadata: z.object({
    uid: z.string(),
    labels: z.record(z.string(), z.string()).default({}),
    ownerReferences: z.array(z.object({ uid: z.string() })).default([]),
  }),
});
const reference = z.object({ group: z.string(), kind: z.string(), name: z.string(), namespace: z.string().default("") });
type Reference = z.infer<typeof reference>;
const gatewayClassObject = z.object({ spec: z.object({ parametersRef: reference.nullable().default(null) }) });
type Owned = z.infer<typeof owned>["metadata"];
const configMap = z.object({ data: z.record(z.string(), z.string()).default({}) });

export function createProvision(options: ProvisionOptions, stop: AbortSignal): Provision {
  const { api, namespace: own, isLeader, onMade, onProblem } = options;
  const { sweepMilliseconds = SWEEP_MILLISECONDS, idleMilliseconds = IDLE_MILLISECONDS, times = TIMES } = options;
  let waypoints = new Map<WaypointKey, Waypoint>();
  /** What each was asked for last: nothing is applied again because something else changed. */
  const asked = new Map<WaypointKey, string>();
  /** Since when an auto Gateway has nothing to do. */
  const idleSince = new Map<WaypointKey, number>();
  const troubled = new Set<WaypointKey>();
  const writer = createWriter(
    { write: (key) => write(key as WaypointKey), onError: (key, error) => trouble(key as WaypointKey, error), times },
    stop,
  );
  const timers = [
    setInterval(() => ask(waypoints.keys()), sweepMilliseconds),
    setInterval(() => ask([CLASS]), Math.min(CLASS_MILLISECONDS, sweepMilliseconds)),
  ];
  for (const timer of timers) timer.unref();
  stop.addEventListener("abort", () => timers.forEach(clearInterval));

  function ask(keys: Iterable<WaypointKey>): void {
    if (isLeader()) for (const key of keys) writer.ask(key);
  }

  function changed(now: readonly Waypoint[]): void {
    const before = waypoints;
    waypoints = new Map(now.map((waypoint) => [waypointKey(waypoint), waypoint]));
    for (const key of before.keys())
      if (!waypoints.has(key)) {
        writer.drop(key);
        asked.delete(key);
        idleSince.delete(key);
        troubled.delete(key);
      }
    if (before.size === 0 && waypoints.size > 0) ask([CLASS]);
    for (const [key, waypoint] of waypoints) {
      const text = JSON.stringify([waypoint.gateway, waypoint.ready, waypoint.services.length > 0]);
      if (asked.get(key) === text) continue;
      asked.set(key, text);
      if (isLeader()) writer.ask(key);
    }
  }

  function noticed({ put, remove }: Pick<Change, "put" | "remove">): void {
    const keys = [...put.filter(({ kind }) => kind === "Service").map(keyOf), ...remove];
    ask(new Set(keys.map(waypointBehind).filter((key) => key !== null)));
  }

  /** Whose Service it is, or whose pod: those are called after their Deployment. */
  function waypointBehind(key: ObjectKey): WaypointKey | null {
    const [kind, namespace = "", name = ""] = key.split("/");
    const made = kind === "Service" ? name : kind === "Pod" ? name.split("-").slice(0, -2).join("-") : "";
    const found: WaypointKey = `${namespace}/${made}`;
    return waypoints.has(found) ? found : null;
  }

  function trouble(key: WaypointKey, error: unknown): void {
    if (key !== CLASS) troubled.add(key);
    if (key === CLASS) options.onClass(error);
    else onProblem(key, error);
  }

  async function write(key: WaypointKey): Promise<void> {
    if (!isLeader()) return;
    if (key === CLASS) return applyClass();
    const waypoint = waypoints.get(key);
    if (waypoint === undefined) return;
    const { gateway, namespace } = waypoint;
    if (NEVER.includes(namespace) || namespace === own)
      throw meshError("E_WAYPOINT_NOT_MADE", `namespace ${namespace} gets no waypoint: the mesh and the cluster must start without one`);
    if (gateway === null) await apply(autoGateway(waypoint), null);
    else if (gateway.unsupported.length > 0)
      return; // its status says so, and it stays as it was
    else if (isAuto(gateway) && waypoint.services.length === 0) await retire(key, gateway);
    else {
      idleSince.delete(key);
      await make(gateway);
    }
    if (troubled.delete(key)) onProblem(key, null);
  }

  async function make(gateway: Gateway): Promise<void> {
    const { namespace } = gateway.metadata;
    const gateways = [...waypoints.values()].flatMap((one) => one.gateway ?? []);
    const plan = planOf({ gateway, namespace: own, image: await options.image(), parameters: await parametersOf(gateway) });
    // All or nothing: a plan of which one object is somebody else's is not begun.
    const roots = rootsOf(namespace, gateways, options.roots());
    for (const manifest of plan) await refuseForeign(manifest, isOwnedBy(gateway));
    await refuseForeign(roots, () => true); // of any of our Gateways in the namespace
    await apply(roots, null);
    for (const manifest of plan) await apply(manifest, gateway);
  }

  /** The Gateway's own, or else those of its class. */
  async function parametersOf({ metadata, className, infrastructure }: Gateway): Promise<Parameters> {
    const own = infrastructure.parametersRef;
    const reference = own === null ? await classParameters(className) : { ...own, namespace: metadata.namespace };
    if (reference === null) return NO_PARAMETERS;
    const field = own === null ? `spec.parametersRef of GatewayClass ${className}` : "spec.infrastructure.parametersRef";
    const what = `${reference.kind} ${reference.namespace}/${reference.name}`;
    if (reference.kind !== "ConfigMap" || reference.group !== "")
      throw meshError("E_WAYPOINT_PARAMETERS", `${field} names ${what}: only a ConfigMap is read`);
    const found = await read(objectPath(CONFIG_MAPS, reference.namespace, reference.name));
    if (found === null) throw meshError("E_WAYPOINT_PARAMETERS", `${what} of ${field} does not exist`);
    const parsed = parseParameters(configMap.parse(found).data);
    if (typeof parsed === "string") throw meshError("E_WAYPOINT_PARAMETERS", `${what}: ${parsed}`);
    return parsed;
  }

  async function classParameters(className: string): Promise<Reference | null> {
    const found = await read(`${CLASSES}/${encodeURIComponent(className)}`);
    return found === null ? null : gatewayClassObject.parse(found).spec.parametersRef;
  }

  async function read(path: string): Promise<unknown> {
    try {
      return await api.call({ method: "GET", path });
    } catch (error) {
      if (isStatus(error, 404)) return null;
      throw error;
    }
  }

  /** What has the name that we need, and was not made for this Gateway, stays as it is. */
  async function refuseForeign(manifest: Manifest, isOwn: (metadata: Owned) => boolean): Promise<void> {
    const found = await read(pathOf(manifest));
    if (found === null) return;
    const { metadata } = owned.parse(found);
    const ours = metadata.labels["app.kubernetes.io/managed-by"] === kubernetes.fieldManager;
    if (ours && isOwn(metadata)) return;
    const { kind, metadata: wanted } = manifest;
    const why = ours ? "is still that of a Gateway that was deleted" : "was not made by Trackbed";
    throw meshError("E_WAYPOINT_NOT_MADE", `${kind} ${wanted.namespace}/${wanted.name} is there already and ${why}`);
  }

  async function apply(manifest: Manifest, gateway: Gateway | null): Promise<void> {
    const query = { fieldManager: kubernetes.control, force: "true" };
    await api.call({ method: "PATCH", path: pathOf(manifest), query, type: "application/apply-patch+yaml", body: manifest });
    if (gateway === null && manifest.kind === "Gateway") onMade(`${manifest.metadata.namespace}/${manifest.metadata.name}`, "Gateway made");
  }

  async function applyClass(): Promise<void> {
    const path = `${CLASSES}/${kubernetes.waypointClass}`;
    const query = { fieldManager: kubernetes.control, force: "true" };
    try {
      await api.call({ method: "PATCH", path, query, type: "application/apply-patch+yaml", body: gatewayClass() });
      options.onClass(null);
    } catch (error) {
      if (!isStatus(error, 404)) throw error; // 404: the Gateway API is not installed; there are no Gateways then
    }
  }

  /** Nothing in the namespace needs it, or it is not labelled auto any more. */
  async function retire(key: WaypointKey, { metadata }: Gateway): Promise<void> {
    const since = idleSince.get(key) ?? performance.now();
    idleSince.set(key, since);
    const left = since + idleMilliseconds - performance.now();
    if (left > 0) {
      setTimeout(() => isLeader() && writer.ask(key), left).unref();
      return;
    }
    const body = { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid: metadata.uid } };
    await api.call({ method: "DELETE", path: objectPath(GATEWAYS, metadata.namespace, metadata.name), body });
    onMade(key, "Gateway removed: nothing needs it");
  }

  return { changed, noticed, elected: () => ask([CLASS, ...waypoints.keys()]), pending: writer.pending, idle: writer.idle };
}

const isOwnedBy =
  ({ metadata }: Gateway) =>
  ({ ownerReferences }: Owned): boolean =>
    ownerReferences.some(({ uid }) => uid === metadata.uid);

function pathOf({ kind, metadata }: Manifest): string {
  const place = PLACES[kind];
  if (place === undefined) throw new Error(`no path is known of kind ${kind}`);
  return objectPath(place, metadata.namespace, metadata.name);
}
