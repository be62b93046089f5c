// Which waypoint each destination asks for, and whether that is there: kept up to date at the cost of what changed.
import { kubernetes, labels } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Gateway } from "#mesh/gateway.ts";
import type { MeshObject, ObjectMeta, Pod, Service } from "#mesh/objects.ts";
import { isEmptySelector, selects } from "#mesh/selector.ts";
import { gatewayOf, waypointClasses } from "#mesh/waypoint-pod.ts";
import { admits, type Binding, bindingOf, gatewaysOf, type WantedCanary } from "#waypoint/binding.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import { type Canary, type Standing, waypointsOf } from "#waypoint/standing.ts";
import { type Traffic, trafficOf } from "#waypoint/traffic.ts";
import { type GatewayName, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import type { Cluster } from "./cluster.ts";
import type { Destinations } from "./destinations.ts";
import { isReachable } from "./workload.ts";

export type BindingIndex = {
  /** An object came or went; `dirty` gathers destinations whose standing may be another. */
  note(object: MeshObject, dirty: Set<DestinationKey>): void;
  /**
   * After a batch: binds the dirty destinations anew, and adds those whose waypoint came, went, or became ready. Returns the waypoints to which
   * that happened, and whether they are, or were, for pods.
   */
  settle(dirty: Set<DestinationKey>): ReadonlyMap<WaypointKey, boolean>;
  standing(destination: DestinationKey): Standing;
  /** Why the namespace cannot use the waypoint; null when it can. One that is implied need not be written by anybody. */
  obstacleTo(waypoint: GatewayName, namespace: string, implied: boolean): string | null;
  /** Whose traffic it is for: services' while nobody wrote it. */
  traffic(key: WaypointKey): Traffic;
  gateway(key: WaypointKey): Gateway | null;
  /** Of our classes, written by somebody. */
  gateways(): Iterable<Gateway>;
  /** Gateways that nobody wrote and that something needs. */
  implied(): Iterable<WaypointKey>;
  isReady(key: WaypointKey): boolean;
  /** Destinations whose traffic passes it or will. */
  served(key: WaypointKey): readonly DestinationKey[];
};

/** Of a Gateway that is implied. */
const UNWRITTEN: ObjectMeta = { namespace: "", name: "", uid: "", labels: {}, annotations: {}, creationTimestamp: "" };
const NO_BINDING: Binding = { kind: "none" };

const splitKey = (key: string): readonly [string, string] => {
  const at = key.indexOf("/");
  return [key.slice(0, at), key.slice(at + 1)];
};

export function bindingIndex(cluster: Cluster, destinations: Destinations, adopt: Adoption): BindingIndex {
  const classes = waypointClasses(adopt);
  const bindings = new Map<DestinationKey, Binding>();
  const byWaypoint = new Map<WaypointKey, Set<DestinationKey>>();
  const gateways = new Map<WaypointKey, Gateway>();
  /** Whether a waypoint was ready after the last batch. */
  const ready = new Map<WaypointKey, boolean>();
  const touched = new Set<WaypointKey>();
  /** Gateways that came, went or changed in the batch. */
  const written = new Set<WaypointKey>();
  /** Those that came, went, or became ready: whether for pods. */
  const changed = new Map<WaypointKey, boolean>();

  const traffic = (key: WaypointKey): Traffic => trafficOf(gateways.get(key)?.metadata ?? UNWRITTEN, adopt);

  const boundTo = (key: WaypointKey): ReadonlySet<DestinationKey> => byWaypoint.get(key) ?? new Set();

  /** Its own. */
  const serviceOf = (waypoint: WaypointKey): Service | undefined => {
    const found = cluster.objects.get(`Service/${waypoint}`);
    return found?.kind === "Service" ? found : undefined;
  };

  function bind(key: DestinationKey): void {
    const metadata = cluster.objects.get(key)?.metadata;
    const before = bindings.get(key);
    const now = metadata === undefined ? NO_BINDING : bindingOf(metadata, cluster.namespace(metadata.namespace), adopt);
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

  function note(object: MeshObject, dirty: Set<DestinationKey>): void {
    const { namespace, name } = object.metadata;
    if (object.kind === "Pod") {
      const gateway = gatewayOf(object, adopt);
      if (gateway !== null) touched.add(waypointKey({ namespace, name: gateway }));
    } else if (object.kind === "Service") {
      dirty.add(`Service/${namespace}/${name}`);
      touched.add(`${namespace}/${name}`);
    } else if (object.kind === "ServiceEntry") {
      dirty.add(`ServiceEntry/${namespace}/${name}`);
      // Also the others: a host may be theirs now.
      for (const { metadata } of cluster.entries.of(namespace)) dirty.add(`ServiceEntry/${namespace}/${metadata.name}`);
    } else if (object.kind === "Namespace") {
      for (const { metadata } of [...cluster.services.unselective(name), ...cluster.services.selective(name)])
        dirty.add(`Service/${name}/${metadata.name}`);
      for (const { metadata } of cluster.entries.of(name)) dirty.add(`ServiceEntry/${name}/${metadata.name}`);
    } else if (object.kind === "Gateway") {
      written.add(waypointKey({ namespace, name }));
    }
  }

  function refresh(waypoint: WaypointKey, dirty: Set<DestinationKey>): void {
    const current = cluster.objects.get(`Gateway/${waypoint}`);
    const before = traffic(waypoint).workloads;
    if (current?.kind === "Gateway" && classes.includes(current.className)) gateways.set(waypoint, current);
    else gateways.delete(waypoint);
    changed.set(waypoint, before || traffic(waypoint).workloads);
    touched.add(waypoint);
    // Also the service of the same name: as a waypoint's own it has none.
    for (const key of [...boundTo(waypoint), `Service/${waypoint}` as const]) dirty.add(key);
  }

  function settle(dirty: Set<DestinationKey>): ReadonlyMap<WaypointKey, boolean> {
    for (const waypoint of written) refresh(waypoint, dirty);
    written.clear();
    for (const key of dirty) bind(key);
    for (const waypoint of touched) {
      const now = readyNow(waypoint);
      if (ready.get(waypoint) !== now) {
        for (const key of boundTo(waypoint)) dirty.add(key);
        changed.set(waypoint, changed.get(waypoint) === true || traffic(waypoint).workloads);
      }
      if (byWaypoint.has(waypoint) || gateways.has(waypoint)) ready.set(waypoint, now);
      else ready.delete(waypoint);
    }
    touched.clear();
    const told = new Map(changed);
    changed.clear();
    return told;
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

  function standing(key: DestinationKey): Standing {
    const binding = bindings.get(key) ?? NO_BINDING;
    if (binding.kind === "none") return { kind: "none", reason: "neither it nor its namespace is labelled with one" };
    const destination = destinations.find(key);
    const wanted = binding.kind === "named" && binding.own;
    // Nobody meant each of a namespace's; who is meant by name is told.
    const without = (reason: string): Standing =>
      wanted && key.startsWith("ServiceEntry/") ? { kind: "absent", gateway: binding.gateway, reason } : { kind: "none", reason };
    if (destination === undefined) return { kind: "none", reason: "it is not there" };
    if (destination.unroutable !== "") return without(`it ${destination.unroutable}`);
    // Its own Service must not lead to it once more.
    const itself = (one: WaypointKey): boolean => key === `Service/${one}`;
    const { namespace, name } = destination.metadata;
    if (
      (itself(`${namespace}/${name}`) && gateways.has(`${namespace}/${name}`)) ||
      gatewaysOf(binding).some((one) => itself(waypointKey(one)))
    )
      return { kind: "none", reason: "it is a waypoint itself" };
    if (binding.kind === "auto" && cluster.routes.attachedTo(key).length + cluster.attached.of(key).length === 0)
      return { kind: "none", reason: "nothing of it needs one" };
    const obstacle = obstacleTo(binding.gateway, namespace, binding.kind === "auto");
    if (obstacle === null && !traffic(waypointKey(binding.gateway)).services) {
      const reason = `Gateway ${waypointKey(binding.gateway)} is not for services (label ${labels.waypointFor})`;
      return wanted ? { kind: "absent", gateway: binding.gateway, reason } : { kind: "none", reason };
    }
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

  const servedBy = (waypoint: WaypointKey): DestinationKey[] =>
    [...boundTo(waypoint)].filter((key) => waypointsOf(standing(key)).some((one) => waypointKey(one) === waypoint));

  return {
    note,
    settle,
    standing,
    obstacleTo,
    traffic,
    gateway: (key) => gateways.get(key) ?? null,
    gateways: () => gateways.values(),
    implied: () => [...byWaypoint.keys()].filter((key) => !gateways.has(key) && servedBy(key).length > 0),
    isReady: (key) => ready.get(key) === true,
    served: servedBy,
  };
}
