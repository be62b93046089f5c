// Which compiled resources one object has a part in: what must be computed again when it comes, changes or goes.
import { keyOf, type MeshObject, type ObjectKey, type Pod } from "#mesh/objects.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import type { Cluster } from "./cluster.ts";

export type Dirty = {
  readonly pods: Set<ObjectKey>;
  readonly services: Set<ObjectKey>;
  readonly slices: Set<ObjectKey>;
  /** Namespaces: entries of one compete for hosts. */
  readonly entries: Set<string>;
  readonly policies: Set<ObjectKey>;
  readonly peers: Set<ObjectKey>;
};

export const noneDirty = (): Dirty => ({
  pods: new Set(),
  services: new Set(),
  slices: new Set(),
  entries: new Set(),
  policies: new Set(),
  peers: new Set(),
});

/** "" asks for every namespace. */
const reach = (namespace: string, rootNamespace: string): string => (namespace === rootNamespace ? "" : namespace);

export function affected(object: MeshObject, cluster: Cluster, rootNamespace: string, dirty: Dirty): void {
  const { namespace, name } = object.metadata;
  const markPods = (pods: Iterable<Pod>): void => {
    for (const pod of pods) dirty.pods.add(keyOf(pod));
  };
  switch (object.kind) {
    case "Pod":
      dirty.pods.add(keyOf(object));
      for (const rival of cluster.claims.rivals(object)) dirty.pods.add(keyOf(rival));
      for (const slice of cluster.slices.naming(object.podIPs)) dirty.slices.add(keyOf(slice));
      for (const one of cluster.entries.naming(object.podIPs)) dirty.entries.add(one);
      break;
    case "Namespace":
      markPods(cluster.pods.find(name, {}));
      for (const service of [...cluster.services.unselective(name), ...cluster.services.selective(name)])
        dirty.services.add(keyOf(service));
      for (const policy of [...cluster.policies.unselective(name), ...cluster.policies.selective(name)]) dirty.policies.add(keyOf(policy));
      break;
    case "Node":
      markPods(cluster.podsOn(name));
      break;
    case "Service":
      dirty.services.add(keyOf(object));
      for (const rival of cluster.claims.rivals(object)) dirty.services.add(keyOf(rival));
      if (!isEmptySelector(object.selector)) markPods(cluster.pods.find(namespace, object.selector));
      for (const slice of cluster.slices.of(namespace, name)) dirty.slices.add(keyOf(slice));
      break;
    case "EndpointSlice":
      dirty.slices.add(keyOf(object));
      break;
    case "ServiceEntry":
      dirty.entries.add(namespace);
      // Also of the others: a host may be theirs now.
      for (const { selector } of cluster.selectiveEntries.selective(namespace)) markPods(cluster.pods.find(namespace, selector));
      break;
    case "AuthorizationPolicy":
      dirty.policies.add(keyOf(object));
      if (!isEmptySelector(object.selector)) markPods(cluster.pods.find(reach(namespace, rootNamespace), object.selector));
      break;
    case "PeerAuthentication": {
      dirty.peers.add(keyOf(object));
      if (!isEmptySelector(object.selector)) {
        markPods(cluster.pods.find(namespace, object.selector));
        break;
      }
      // Whoever inherits from it: pods, and port policies whose own mode is UNSET.
      markPods(cluster.pods.find(reach(namespace, rootNamespace), {}));
      for (const peer of cluster.peers.selective(reach(namespace, rootNamespace))) dirty.peers.add(keyOf(peer));
      break;
    }
  }
}
