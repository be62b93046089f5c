// What the source says now, indexed for the questions of certificates and node reports.
import type { ClusterView } from "#ca/authorise.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import { type Kind, keyOf, type MeshObject, type Namespace, type Node, type ObjectKey, type Pod } from "#mesh/objects.ts";
import { gatewayOf, waypointClasses } from "#mesh/waypoint-pod.ts";
import type { Change } from "#source/source.ts";

export type MeshView = ClusterView & {
  apply(change: Pick<Change, "reset" | "put" | "remove">): void;
  nodes(): readonly string[];
  /** Live pods of waypoints: each of a Gateway that there is. */
  waypoints(): readonly Pod[];
  objects(): Iterable<MeshObject>;
  /** Objects in force by kind. */
  counts(): ReadonlyMap<string, number>;
};

export function createView(trustDomain: string, adopt: Adoption = "none"): MeshView {
  const objects = new Map<ObjectKey, MeshObject>();
  const pods = new Map<string, Pod>();
  const byNode = new Map<string, Set<Pod>>();
  // Asked after every batch: counting a hundred thousand objects each time would cost more than compiling the change.
  const byKind = new Map<Kind, number>();
  const nodes = new Set<string>();
  /** Pods that say of which Gateway they are. */
  const claimants = new Map<string, Pod>();
  /** Those of our classes. */
  const gateways = new Set<ObjectKey>();

  function count(kind: Kind, by: 1 | -1): void {
    byKind.set(kind, (byKind.get(kind) ?? 0) + by);
  }

  function take(key: ObjectKey): void {
    const object = objects.get(key);
    if (!objects.delete(key) || object === undefined) return;
    count(object.kind, -1);
    if (object.kind === "Node") nodes.delete(object.metadata.name);
    if (object.kind === "Gateway") gateways.delete(key);
    if (object.kind !== "Pod") return;
    if (pods.get(object.metadata.uid) === object) pods.delete(object.metadata.uid);
    if (claimants.get(object.metadata.uid) === object) claimants.delete(object.metadata.uid);
    byNode.get(object.nodeName)?.delete(object);
    if (byNode.get(object.nodeName)?.size === 0) byNode.delete(object.nodeName);
  }

  function put(object: MeshObject): void {
    const key = keyOf(object);
    take(key);
    objects.set(key, object);
    count(object.kind, 1);
    if (object.kind === "Node") nodes.add(object.metadata.name);
    if (object.kind === "Gateway" && waypointClasses(adopt).includes(object.className)) gateways.add(key);
    if (object.kind !== "Pod") return;
    pods.set(object.metadata.uid, object);
    if (gatewayOf(object, adopt) !== null) claimants.set(object.metadata.uid, object);
    byNode.set(object.nodeName, (byNode.get(object.nodeName) ?? new Set()).add(object));
  }

  function apply({ reset, put: objectsPut, remove }: Pick<Change, "reset" | "put" | "remove">): void {
    if (reset) for (const key of [...objects.keys()]) take(key);
    for (const key of remove) take(key);
    for (const object of objectsPut) put(object);
  }

  function isWaypoint(pod: Pod): boolean {
    const over = pod.phase === "Succeeded" || pod.phase === "Failed";
    return !over && gateways.has(`Gateway/${pod.metadata.namespace}/${gatewayOf(pod, adopt)}`);
  }

  function waypoint(uid: string): Pod | undefined {
    const pod = claimants.get(uid);
    return pod !== undefined && isWaypoint(pod) ? pod : undefined;
  }

  return {
    trustDomain,
    adopt,
    apply,
    counts: () => byKind,
    objects: () => objects.values(),
    node: (name) => objects.get(`Node//${name}`) as Node | undefined,
    namespace: (name) => objects.get(`Namespace//${name}`) as Namespace | undefined,
    pod: (uid) => pods.get(uid),
    waypoint,
    waypoints: () => [...claimants.values()].filter(isWaypoint),
    podsOn: (node) => byNode.get(node) ?? [],
    nodes: () => [...nodes],
  };
}
