// Which waypoint passes what is addressed to a pod by its own address: found when somebody asks, since few pods have one.
import { labels } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { MeshObject, Namespace, ObjectMeta, Pod } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { type Binding, bindingOf, gatewaysOf, useLabels } from "#waypoint/binding.ts";
import { hasWaypoint, type Standing } from "#waypoint/standing.ts";
import { type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import type { BindingIndex } from "./binding-index.ts";
import type { Cluster } from "./cluster.ts";
import { isReachable } from "./workload.ts";

export type PodBindings = {
  note(object: MeshObject): void;
  standing(pod: Pod): Standing;
  /** Pods that name the waypoint, themselves or by their namespace. */
  naming(waypoint: WaypointKey): readonly Pod[];
  /** Those that name it themselves. */
  labelled(waypoint: WaypointKey): readonly Pod[];
  /** Pods that are reached through it, or will be. */
  served(waypoint: WaypointKey): readonly Pod[];
  /** Waypoints for pods that the object names: what they serve may be something else now. */
  namedBy(object: Pod | Namespace): readonly WaypointKey[];
};

const NONE: Standing = { kind: "none", reason: "" };

export function podBindings(cluster: Cluster, bindings: BindingIndex, adopt: Adoption): PodBindings {
  /** Namespaces that name a waypoint, or once did: looked at again when they are asked for. */
  const namespaces = new Map<WaypointKey, Set<string>>();

  const bindingOfPod = ({ metadata }: Pod): Binding => bindingOf(metadata, cluster.namespace(metadata.namespace), adopt);
  /** What a pod without labels has of its namespace. */
  const inherited = (namespace: Namespace): Binding => bindingOf(inside(namespace.metadata), namespace, adopt);
  const keysOf = (binding: Binding): WaypointKey[] => gatewaysOf(binding).map(waypointKey);

  function standing(pod: Pod): Standing {
    const binding = bindingOfPod(pod);
    if (binding.kind !== "named") return NONE;
    // Its own connections are nobody's business but its own, and nobody asks for a node's address when he means a pod.
    if (gatewayOf(pod, adopt) !== null || pod.hostNetwork || !isReachable(pod)) return NONE;
    const { gateway, own } = binding;
    const without = (reason: string): Standing => (own ? { kind: "absent", gateway, reason } : { kind: "none", reason });
    const obstacle = bindings.obstacleTo(gateway, pod.metadata.namespace, false);
    if (obstacle !== null) return without(obstacle);
    const key = waypointKey(gateway);
    if (!bindings.traffic(key).workloads)
      return without(`Gateway ${key} is not for pods: label it ${labels.waypointFor}, with workload or all`);
    const fault = own && binding.canary !== null ? "a pod has one waypoint, no second one beside it" : "";
    return { kind: bindings.isReady(key) ? "ready" : "waiting", gateway, canary: null, fault };
  }

  const names = (pod: Pod, waypoint: WaypointKey): boolean => keysOf(bindingOfPod(pod)).includes(waypoint);

  function labelled(waypoint: WaypointKey): readonly Pod[] {
    const [, name = ""] = waypoint.split("/");
    return useLabels(adopt).flatMap((label) => [...cluster.pods.find("", { [label]: name })].filter((pod) => names(pod, waypoint)));
  }

  function naming(waypoint: WaypointKey): readonly Pod[] {
    const found = new Set(labelled(waypoint));
    const known = namespaces.get(waypoint) ?? new Set();
    for (const one of known) {
      const namespace = cluster.namespace(one);
      if (namespace === undefined || !keysOf(inherited(namespace)).includes(waypoint)) known.delete(one);
      else for (const pod of cluster.pods.find(one, {})) if (names(pod, waypoint)) found.add(pod);
    }
    return [...found];
  }

  return {
    note: (object) => {
      if (object.kind !== "Namespace") return;
      for (const key of keysOf(inherited(object))) namespaces.set(key, (namespaces.get(key) ?? new Set()).add(object.metadata.name));
    },
    standing,
    naming,
    labelled,
    served: (waypoint) =>
      bindings.traffic(waypoint).workloads
        ? naming(waypoint).filter((pod) => {
            const found = standing(pod);
            return hasWaypoint(found) && waypointKey(found.gateway) === waypoint;
          })
        : [],
    namedBy: (object) =>
      keysOf(object.kind === "Pod" ? bindingOfPod(object) : inherited(object)).filter((key) => bindings.traffic(key).workloads),
  };
}

const inside = ({ name }: ObjectMeta): ObjectMeta => ({
  namespace: name,
  name: "",
  uid: "",
  labels: {},
  annotations: {},
  creationTimestamp: "",
});
