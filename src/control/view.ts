// What the source says now, indexed for the questions of certificates and node reports.
import type { ClusterView } from "#ca/authorise.ts";
import { keyOf, type MeshObject, type Namespace, type Node, type ObjectKey, type Pod } from "#mesh/objects.ts";
import type { Change } from "#source/source.ts";

export type MeshView = ClusterView & {
  apply(change: Pick<Change, "reset" | "put" | "remove">): void;
  nodes(): readonly string[];
  /** Objects in force by kind. */
  counts(): ReadonlyMap<string, number>;
};

export function createView(trustDomain: string): MeshView {
  const objects = new Map<ObjectKey, MeshObject>();
  const pods = new Map<string, Pod>();
  const byNode = new Map<string, Set<Pod>>();

  function take(key: ObjectKey): void {
    const object = objects.get(key);
    objects.delete(key);
    if (object?.kind !== "Pod") return;
    if (pods.get(object.metadata.uid) === object) pods.delete(object.metadata.uid);
    byNode.get(object.nodeName)?.delete(object);
    if (byNode.get(object.nodeName)?.size === 0) byNode.delete(object.nodeName);
  }

  function put(object: MeshObject): void {
    const key = keyOf(object);
    take(key);
    objects.set(key, object);
    if (object.kind !== "Pod") return;
    pods.set(object.metadata.uid, object);
    byNode.set(object.nodeName, (byNode.get(object.nodeName) ?? new Set()).add(object));
  }

  function apply({ reset, put: objectsPut, remove }: Pick<Change, "reset" | "put" | "remove">): void {
    if (reset) for (const key of [...objects.keys()]) take(key);
    for (const key of remove) take(key);
    for (const object of objectsPut) put(object);
  }

  function counts(): ReadonlyMap<string, number> {
    const result = new Map<string, number>();
    for (const { kind } of objects.values()) result.set(kind, (result.get(kind) ?? 0) + 1);
    return result;
  }

  return {
    trustDomain,
    apply,
    counts,
    node: (name) => objects.get(`Node//${name}`) as Node | undefined,
    namespace: (name) => objects.get(`Namespace//${name}`) as Namespace | undefined,
    pod: (uid) => pods.get(uid),
    podsOn: (node) => byNode.get(node) ?? [],
    nodes: () => [...objects.values()].filter(({ kind }) => kind === "Node").map(({ metadata }) => metadata.name),
  };
}
