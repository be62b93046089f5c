// Which waypoint each service asks for, and whether that is there: kept up to date at the cost of what changed.
import { kubernetes } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Gateway } from "#mesh/gateway.ts";
import type { MeshObject, Pod, Service } from "#mesh/objects.ts";
import { isEmptySelector, selects } from "#mesh/selector.ts";
import { gatewayOf, waypointClasses } from "#mesh/waypoint-pod.ts";
import { admits, type Binding, bindingOf, gatewaysOf, type WantedCanary } from "#waypoint/binding.ts";
import { type Canary, type Standing, waypointsOf } from "#waypoint/standing.ts";
import { type GatewayName, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import type { Cluster } from "./cluster.ts";
import type { ServiceKey } from "./route-index.ts";
import { isReachable } from "./workload.ts";

export type BindingIndex = {
  /** An object came or went; `dirty` gathers services whose standing may be another. */
  note(object: MeshObject, dirty: Set<ServiceKey>): void;
  /** After a batch: binds the dirty services anew, and adds those whose waypoint came, went, or became ready. */
  settle(dirty: Set<ServiceKey>): void;
  standing(service: ServiceKey): Standing;
  gateway(key: WaypointKey): Gateway | null;
  /** Of our classes, written by somebody. */
  gateways(): Iterable<Gateway>;
  /** Gateways that nobody wrote and that something needs. */
  implied(): Iterable<WaypointKey>;
  isReady(key: WaypointKey): boolean;
  /** Services whose traffic passes it or will. */
  served(key: WaypointKey): readonly ServiceKey[];
};

const NO_BINDING: Binding = { kind: "none" };

const splitKey = (key: string): readonly [string, string] => {
  const at = key.indexOf("/");
  return [key.slice(0, at), key.slice(at + 1)];
};

export function bindingIndex(cluster: Cluster, adopt: Adoption): BindingIndex {
  const classes = waypointClasses(adopt);
  const bindings = new Map<ServiceKey, Binding>();
  const byWaypoint = new Map<WaypointKey, Set<ServiceKey>>();
  const gateways = new Map<WaypointKey, Gateway>();
  /** Whether a waypoint was ready after the last batch. */
  const ready = new Map<WaypointKey, boolean>();
  const touched = new Set<WaypointKey>();
  /** Gateways that came, went or changed in the batch. */
  const written = new Set<WaypointKey>();

  const boundTo = (key: WaypointKey): ReadonlySet<ServiceKey> => byWaypoint.get(key) ?? new Set();

  const serviceOf = (key: ServiceKey): Service | undefined => {
    const [namespace, name] = splitKey(key);
    const found = cluster.objects.get(`Service/${namespace}/${name}`);
    return found?.kind === "Service" ? found : undefined;
  };

  function bind(key: ServiceKey): void {
    const service = serviceOf(key);
    const before = bindings.get(key);
    const now = service === undefined ? NO_BINDING : bindingOf(service.metadata, cluster.namespace(service.metadata.namespace), adopt);
    const [left, joined] = [before ?? NO_BINDING, now].map((one) => gatewaysOf(one).map(waypointKey));
    for (const waypoint of left ?? []) {
      touched.add(waypoint);
      const bound = byWaypoint.get(waypoint);
      bound?.delete(key);
      if (bound?.size === 0) byWaypoint.delete(waypoint);
    }
    for (const waypoint of joined ?? []) {
      touched.add(waypoint);
      byWaypoint.set(waypoint, (byWaypoint.get(waypoint) ?? new Set()).add(key));
    }
    if (now.kind === "none") bindings.delete(key);
    else bindings.set(key, now);
  }

  function note(object: MeshObject, dirty: Set<ServiceKey>): void {
    const { namespace, name } = object.metadata;
    if (object.kind === "Pod") {
      const gateway = gatewayOf(object, adopt);
      if (gateway !== null) touched.add(waypointKey({ namespace, name: gateway }));
    } else if (object.kind === "Service") {
      const key: WaypointKey = `${namespace}/${name}`;
      dirty.add(key);
      touched.add(key);
    } else if (object.kind === "Namespace") {
      for (const { metadata } of [...cluster.services.unselective(name), ...cluster.services.selective(name)])
        dirty.add(`${name}/${metadata.name}`);
    } else if (object.kind === "Gateway") {
      written.add(waypointKey({ namespace, name }));
    }
  }

  function refresh(waypoint: WaypointKey, dirty: Set<ServiceKey>): void {
    const current = cluster.objects.get(`Gateway/${waypoint}`);
    if (current?.kind === "Gateway" && classes.includes(current.className)) gateways.set(waypoint, current);
    else gateways.delete(waypoint);
    touched.add(waypoint);
    // Also the service of the same name: as a waypoint's own it has none.
    for (const key of [...boundTo(waypoint), waypoint]) dirty.add(key);
  }

  function settle(dirty: Set<ServiceKey>): void {
    for (const waypoint of written) refresh(waypoint, dirty);
    written.clear();
    for (const key of dirty) bind(key);
    for (const waypoint of touched) {
      const now = readyNow(waypoint);
      if (ready.get(waypoint) !== now) for (const key of boundTo(waypoint)) dirty.add(key);
      if (byWaypoint.has(waypoint) || gateways.has(waypoint)) ready.set(waypoint, now);
      else ready.delete(waypoint);
    }
    touched.clear();
  }

  function readyNow(waypoint: WaypointKey): boolean {
    const service = serviceOf(waypoint);
    if (service === undefined || service.type === "ExternalName" || isEmptySelector(service.selector)) return false;
    if (gateways.get(waypoint)?.programmed === true) return true;
    const [namespace, name] = splitKey(waypoint);
    return podsOf(namespace, name).some((pod) => pod.ready && isReachable(pod) && selects(service.selector, pod.metadata.labels));
  }

  const podsOf = (namespace: string, name: string): Pod[] =>
    [...cluster.pods.find(namespace, { [kubernetes.gatewayNameLabel]: name })].filter((pod) => gatewayOf(pod, adopt) === name);

  function standing(key: ServiceKey): Standing {
    const binding = bindings.get(key) ?? NO_BINDING;
    if (binding.kind === "none") return { kind: "none", reason: "neither it nor its namespace is labelled with one" };
    if ((serviceOf(key)?.clusterIPs.length ?? 0) === 0) return { kind: "none", reason: "it has no address of its own" };
    // Its own Service must not lead to it once more.
    if (gateways.has(key) || gatewaysOf(binding).some((one) => waypointKey(one) === key))
      return { kind: "none", reason: "it is a waypoint itself" };
    if (binding.kind === "auto" && cluster.routes.attachedTo(key).length === 0) return { kind: "none", reason: "nothing of it needs one" };
    const [namespace] = splitKey(key);
    const obstacle = obstacleTo(binding.gateway, namespace, binding.kind === "auto");
    if (obstacle !== null) return { kind: "absent", gateway: binding.gateway, reason: obstacle };
    const canary = binding.kind === "named" && binding.canary !== null ? canaryOf(binding.canary, namespace) : { canary: null, fault: "" };
    return { kind: isReady(binding.gateway) ? "ready" : "waiting", gateway: binding.gateway, ...canary };
  }

  const isReady = (gateway: GatewayName): boolean => ready.get(waypointKey(gateway)) === true;

  function canaryOf({ gateway, weight }: WantedCanary, namespace: string): { readonly canary: Canary | null; readonly fault: string } {
    const fault = weight === null ? "its share must be a whole number from 0 to 100" : obstacleTo(gateway, namespace, false);
    if (fault !== null) return { canary: null, fault: `canary ${waypointKey(gateway)}: ${fault}; the first waypoint has every connection` };
    return { canary: { gateway, weight: weight ?? 0, ready: isReady(gateway) }, fault: "" };
  }

  /** Why the namespace cannot use the waypoint; null when it can. One that is implied need not be written by anybody. */
  function obstacleTo(named: GatewayName, namespace: string, implied: boolean): string | null {
    const waypoint = waypointKey(named);
    const gateway = gateways.get(waypoint);
    if (gateway === undefined) {
      const other = cluster.objects.get(`Gateway/${waypoint}`);
      if (other?.kind === "Gateway") return `Gateway ${waypoint} is of class ${other.className}, not ${classes.join(" or ")}`;
      return implied ? null : `there is no Gateway ${waypoint}`;
    }
    if (admits(gateway, namespace, cluster.namespace(namespace))) return null;
    return `no listener of Gateway ${waypoint} admits namespace ${namespace} (allowedRoutes.namespaces)`;
  }

  const servedBy = (waypoint: WaypointKey): ServiceKey[] =>
    [...boundTo(waypoint)].filter((key) => waypointsOf(standing(key)).some((one) => waypointKey(one) === waypoint));

  return {
    note,
    settle,
    standing,
    gateway: (key) => gateways.get(key) ?? null,
    gateways: () => gateways.values(),
    implied: () => [...byWaypoint.keys()].filter((key) => !gateways.has(key) && servedBy(key).length > 0),
    isReady: (key) => ready.get(key) === true,
    served: servedBy,
  };
}
