// The part of the compiler that is about waypoints: tables of routes for destinations that have one, what became of routes and Gateways, and what
// each waypoint needs to know. Incremental as the rest: a change costs what depends on it.
import { isDeepStrictEqual } from "node:util";
import type { Routes } from "#contract/gen/route_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import { type MeshObject, type ObjectKey, keyOf as objectKeyOf, type Pod } from "#mesh/objects.ts";
import { withOpaquePorts } from "#mesh/opaque.ts";
import type { ParentRef, Route } from "#mesh/route.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { type DestinationKey, destinationKey } from "#waypoint/destination.ts";
import { gatewayStatus } from "#waypoint/gateway-status.ts";
import { type ParentFacts, routeStatus } from "#waypoint/route-status.ts";
import { hasWaypoint, type Standing, waypointsOf } from "#waypoint/standing.ts";
import type { GatewayStatus, RouteStatus } from "#waypoint/status.ts";
import { closedTable, compileTable, type Table } from "#waypoint/table.ts";
import { trafficFault } from "#waypoint/traffic.ts";
import { type Scope, type Waypoint, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import { bindingIndex } from "./binding-index.ts";
import { isTooLarge, tooLarge } from "./bound.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { createDestinations } from "./destinations.ts";
import { encodeRoutes } from "./encode.ts";
import { createExclusive, type Exclusive } from "./exclusive.ts";
import { podBindings } from "./pod-binding.ts";
import { createPolicies, type Policies } from "./policies.ts";
import type { ObjectFault, Resource } from "./resource.ts";
import { parentsOf } from "./route-index.ts";
import { backendsOf, type EndpointName, scopeOf, settled } from "./scope.ts";
import { hostnameOf } from "./service.ts";
import { uidOf } from "./workload.ts";

export type Waypoints = {
  /** An object came or went. */
  note(object: MeshObject): void;
  /** After a batch: destinations and pods whose WDS resources must be compiled again; `touched` counts the tables that were. */
  settle(known: Known): Settled;
  standing(key: DestinationKey): Standing;
  standingOf(pod: Pod): Standing;
  routes(): ReadonlyMap<string, Resource>;
  readonly policies: Policies;
  readonly exclusive: Pick<Exclusive, "policiesOf" | "awaiting">;
  waypoints(): readonly Waypoint[];
  scopeOf(key: WaypointKey): Scope | null;
  routeStatuses(): readonly RouteStatus[];
  gatewayStatuses(): readonly GatewayStatus[];
  faults(): readonly ObjectFault[];
};

/** Of which destinations every node knows the waypoint now; and whether this is the first batch, when nobody is told of changes. */
export type Known = { readonly released: readonly DestinationKey[]; readonly first: boolean };

export type Settled = {
  readonly destinations: readonly DestinationKey[];
  readonly pods: readonly ObjectKey[];
  /** L4 policies that keep from pods what did not come through a waypoint; null: gone. */
  readonly policies: ReadonlyMap<string, Resource | null>;
  readonly touched: number;
};

/** What stays of a table beside its bytes. */
type Kept = Omit<Table, "routes"> & { readonly names: readonly string[]; readonly backends: readonly string[] };

type View = { readonly waypoint: Waypoint; readonly status: GatewayStatus | null };

/** What the rest of the compiler knows of workloads. */
export type Workloads = {
  /** Those that were named by address: of an EndpointSlice of the Service, or of the ServiceEntry with this host. */
  addressed(name: string): Iterable<Omit<EndpointName, "policies">>;
  policiesOf(pod: Pod): readonly string[];
};

export function createWaypoints(cluster: Cluster, settings: CompilerSettings, workloads: Workloads): Waypoints {
  const destinations = createDestinations(cluster, settings);
  const bindings = bindingIndex(cluster, destinations, settings.adopt);
  const pods = podBindings(cluster, bindings, settings.adopt);
  const policies = createPolicies(cluster, settings, destinations, bindings);
  const exclusive = createExclusive(cluster, settings);
  /** Of destinations that have a waypoint, or routes. */
  const tables = new Map<DestinationKey, Kept>();
  const standings = new Map<DestinationKey, Standing>();
  const resources = new Map<string, Resource>();
  /** Whose they are, by their names. */
  const published = new Map<string, DestinationKey>();
  /** Destinations whose tables are too large to be sent. */
  const large = new Map<ObjectKey, ObjectFault>();
  const statuses = new Map<ObjectKey, RouteStatus>();
  /** Of waypoints about which nothing changed since somebody asked. */
  const views = new Map<WaypointKey, View>();
  const scopes = new Map<WaypointKey, Scope>();
  /** Scopes that may be others than they were. */
  const stale = new Set<WaypointKey>();
  /** What scopes depend on: names of services, and namespaces whose policies hold in them. */
  const scoped = new Map<string, Set<WaypointKey>>();
  const dependencies = new Map<WaypointKey, ReadonlySet<string>>();
  let dirty = new Set<DestinationKey>();
  const dirtyRoutes = new Set<ObjectKey>();

  const nameOfService = (namespace: string, name: string): string => `${namespace}/${hostnameOf(namespace, name, settings)}`;

  function note(object: MeshObject): void {
    const { namespace, name } = object.metadata;
    if (object.kind === "ServiceEntry") destinations.forget(namespace);
    bindings.note(object, dirty);
    policies.note(object, dirty);
    exclusive.note(object);
    pods.note(object);
    if (object.kind === "Service") {
      noteDestination(`Service/${namespace}/${name}`);
      for (const key of cluster.routes.sendingTo(`Hostname/${hostnameOf(namespace, name, settings)}`)) dirty.add(key);
      outdate(nameOfService(namespace, name));
      views.delete(`${namespace}/${name}`);
    } else if (object.kind === "ServiceEntry") {
      // A host that it gives up may be another's.
      for (const one of [object, ...cluster.entries.of(namespace)]) noteDestination(`ServiceEntry/${namespace}/${one.metadata.name}`);
      for (const host of object.hosts) {
        for (const key of cluster.routes.sendingTo(`Hostname/${host}`)) dirty.add(key);
        outdate(`${namespace}/${host}`);
      }
    } else if ("parents" in object) {
      dirtyRoutes.add(objectKeyOf(object));
      for (const key of parentsOf(object)) dirty.add(key);
    } else if (object.kind === "Pod") notePod(object);
    else if (object.kind === "EndpointSlice") outdate(nameOfService(namespace, object.service));
    else if (object.kind === "Gateway") views.delete(waypointKey(object.metadata));
    else if (object.kind === "AuthorizationPolicy" || object.kind === "PeerAuthentication") notePolicies(namespace);
    else if (object.kind === "Namespace") for (const key of pods.namedBy(object)) stale.add(key);
  }

  function noteDestination(key: DestinationKey): void {
    for (const one of cluster.routes.sendingTo(key)) dirty.add(one);
    for (const route of cluster.routes.attachedTo(key)) dirtyRoutes.add(objectKeyOf(route));
  }

  /** Most clusters have no waypoint, and most pods are behind none. */
  function notePod(pod: Pod): void {
    const { namespace, labels } = pod.metadata;
    const gateway = gatewayOf(pod, settings.adopt);
    if (gateway !== null) {
      views.delete(waypointKey({ namespace, name: gateway }));
      stale.add(waypointKey({ namespace, name: gateway }));
    }
    for (const key of pods.namedBy(pod)) stale.add(key);
    if (scoped.size === 0) return;
    for (const { metadata } of cluster.services.matching(namespace, labels)) outdate(nameOfService(namespace, metadata.name));
    for (const { hosts } of cluster.selectiveEntries.matching(namespace, labels)) for (const host of hosts) outdate(`${namespace}/${host}`);
    // What names it by address is of its namespace.
    for (const slice of cluster.slices.naming(pod.podIPs)) outdate(nameOfService(slice.metadata.namespace, slice.service));
    for (const one of cluster.entries.naming(pod.podIPs)) for (const { host } of destinations.hostsOf(one)) outdate(`${one}/${host}`);
  }

  function notePolicies(namespace: string): void {
    if (namespace === settings.rootNamespace) for (const key of scopes.keys()) stale.add(key);
    else outdate(policiesOfNamespace(namespace));
  }

  const outdate = (dependency: string): void => {
    for (const waypoint of scoped.get(dependency) ?? []) stale.add(waypoint);
  };

  function settle({ released, first }: Known): Settled {
    const changedWaypoints = bindings.settle(dirty);
    policies.expand(dirty, changedWaypoints.keys());
    const changedPods = [...changedWaypoints].flatMap(([waypoint, forPods]) => {
      if (forPods) stale.add(waypoint);
      // Of one that is not for pods, those hear that ask for it by their own label.
      return (forPods ? pods.naming(waypoint) : pods.labelled(waypoint)).map(objectKeyOf);
    });
    const changed: DestinationKey[] = [];
    for (const key of dirty) {
      const before = standings.get(key);
      const now = bindings.standing(key);
      for (const gateway of [before ?? NONE, now].flatMap(waypointsOf)) {
        stale.add(waypointKey(gateway));
        views.delete(waypointKey(gateway));
      }
      if (now.kind === "none") standings.delete(key);
      else standings.set(key, now);
      if (cluster.objects.has(key) && !isDeepStrictEqual(before ?? NONE, now.kind === "none" ? NONE : now)) changed.push(key);
      recompile(key, now);
    }
    for (const key of dirtyRoutes) refresh(key);
    dirtyRoutes.clear();
    policies.settle();
    const touched = [...dirty].filter((key) => tables.has(key)).length;
    dirty = new Set();
    exclusive.release(released);
    const only = exclusive.settle(first);
    for (const { metadata } of only.pods) notePolicies(metadata.namespace);
    return { destinations: changed, pods: [...changedPods, ...only.pods.map(objectKeyOf)], policies: only.policies, touched };
  }

  function recompile(key: DestinationKey, standing: Standing): void {
    const attached = cluster.routes.attachedTo(key);
    for (const route of attached) dirtyRoutes.add(objectKeyOf(route));
    large.delete(key);
    const destination = destinations.find(key);
    const { guarded, exclusive: only, asked } = policies.compile(key, standing);
    exclusive.compile(key, standing, only);
    const before = tables.get(key)?.names ?? [];
    if (destination === undefined || (attached.length === 0 && !hasWaypoint(standing))) {
      tables.delete(key);
      withdraw(key, before);
      return;
    }
    const known = { destination: destinations.find, host: destinations.host };
    const spoken = withOpaquePorts(destination, cluster.namespace(destination.metadata.namespace)).service;
    const { routes, verdicts, faults } = compileTable(spoken, attached, known);
    tables.set(key, { verdicts, faults, names: destination.names, backends: [...new Set([...backendsOf(routes), ...asked])] });
    withdraw(key, hasWaypoint(standing) ? before.filter((name) => !destination.names.includes(name)) : before);
    if (hasWaypoint(standing)) for (const name of destination.names) publish(key, name, { ...routes, service: name, guarded });
  }

  /** A host that another ServiceEntry has now is not taken from it. */
  function withdraw(key: DestinationKey, names: readonly string[]): void {
    for (const name of names)
      if (published.get(name) === key) {
        published.delete(name);
        resources.delete(name);
      }
  }

  function publish(key: DestinationKey, name: string, routes: Routes): void {
    published.set(name, key);
    const whole = encodeRoutes(routes);
    const resource = isTooLarge(whole) ? encodeRoutes(closedTable(routes)) : whole;
    if (resource !== whole)
      large.set(key, tooLarge(key, "E_SOURCE_INVALID", whole, "what its routes are about is refused; make them fewer"));
    if (resources.get(name)?.version !== resource.version) resources.set(name, resource);
  }

  function refresh(key: ObjectKey): void {
    const route = cluster.objects.get(key);
    if (route === undefined || !("parents" in route)) {
      statuses.delete(key);
      return;
    }
    const now = routeStatus(route, (parent, index) => factsOf(route, parent, index));
    if (!isDeepStrictEqual(statuses.get(key), now)) statuses.set(key, now);
  }

  function factsOf(route: Route, parent: ParentRef, index: number): ParentFacts | null {
    const key = destinationKey(parent);
    const destination = key === null ? undefined : destinations.find(key);
    if (key === null || destination === undefined) return null;
    const table = tables.get(key);
    return {
      destination,
      standing: bindings.standing(key),
      verdict: table?.verdicts.get(route)?.get(index),
      faults: table?.faults.get(route) ?? [],
    };
  }

  const endpointOf = (pod: Pod): EndpointName => ({
    uid: uidOf(pod.metadata.namespace, pod.metadata.name, settings),
    namespace: pod.metadata.namespace,
    policies: workloads.policiesOf(pod),
  });

  /** Its pods, and what somebody named by hand. */
  function* endpointsOf(name: string): Iterable<EndpointName> {
    for (const one of workloads.addressed(name)) yield { ...one, policies: [] };
    const key = destinations.named(name);
    const found = key === undefined ? undefined : cluster.objects.get(key);
    if (found?.kind !== "Service" && found?.kind !== "ServiceEntry") return;
    if (!isEmptySelector(found.selector))
      for (const pod of cluster.pods.find(found.metadata.namespace, found.selector)) yield endpointOf(pod);
  }

  const policiesIn = (namespace: string): string[] =>
    [...new Set([namespace, settings.rootNamespace])].flatMap((one) =>
      [...cluster.policies.unselective(one)].map(({ metadata }) => `${metadata.namespace}/${metadata.name}`),
    );

  function scope(key: WaypointKey): Scope | null {
    if (bindings.gateway(key) === null && bindings.served(key).length === 0) {
      depend(key, new Set());
      scopes.delete(key);
      return null;
    }
    const before = scopes.get(key);
    if (before !== undefined && !stale.delete(key)) return before;
    stale.delete(key);
    const [namespace = "", name = ""] = key.split("/");
    const { scope: found, namespaces } = scopeOf({
      own: nameOfService(namespace, name),
      served: bindings.served(key).flatMap((one) => servedAs(one)),
      endpointsOf,
      pods: pods.served(key).map(endpointOf),
      itself: [...cluster.pods.find(namespace, { [kubernetes.gatewayNameLabel]: name })].map(endpointOf),
      policiesIn,
    });
    const now = settled(before, found);
    scopes.set(key, now);
    // Names of workloads are paths, and those of services two parts.
    const services = [...now.addresses].filter((one) => one.indexOf("/") === one.lastIndexOf("/"));
    depend(key, new Set([...services, ...[...namespaces].map(policiesOfNamespace)]));
    return now;
  }

  function servedAs(key: DestinationKey): { readonly service: string; readonly backends: readonly string[] }[] {
    const table = tables.get(key);
    return (table?.names ?? []).map((service) => ({ service, backends: table?.backends ?? [] }));
  }

  function depend(key: WaypointKey, on: ReadonlySet<string>): void {
    const before = dependencies.get(key) ?? new Set();
    for (const one of before.difference(on)) {
      scoped.get(one)?.delete(key);
      if (scoped.get(one)?.size === 0) scoped.delete(one);
    }
    for (const one of on.difference(before)) scoped.set(one, (scoped.get(one) ?? new Set()).add(key));
    if (on.size === 0) dependencies.delete(key);
    else dependencies.set(key, on);
  }

  function viewOf(key: WaypointKey): View {
    const known = views.get(key);
    if (known !== undefined) return known;
    const [namespace = "", name = ""] = key.split("/");
    const gateway = bindings.gateway(key);
    const served = bindings.served(key);
    const ready = bindings.isReady(key);
    const routes = new Set(served.flatMap((one) => [...(tables.get(one)?.verdicts.keys() ?? [])]));
    const service = cluster.objects.get(`Service/${key}`);
    const addresses = service?.kind === "Service" ? service.clusterIPs : [];
    const className = gateway?.className ?? kubernetes.waypointClass;
    const view: View = {
      waypoint: { namespace, name, gateway, className, ready, services: served.flatMap((one) => tables.get(one)?.names ?? []).sort() },
      status:
        gateway === null
          ? null
          : gatewayStatus(gateway, {
              ready,
              addresses,
              attachedRoutes: routes.size,
              trafficFault: trafficFault(gateway.metadata, settings.adopt),
            }),
    };
    views.set(key, view);
    return view;
  }

  return {
    note,
    settle,
    standing: (key) => standings.get(key) ?? NONE,
    standingOf: pods.standing,
    routes: () => resources,
    policies,
    exclusive,
    waypoints: () => {
      const declared = [...bindings.gateways()].map(({ metadata }) => waypointKey(metadata));
      return [...new Set([...declared, ...bindings.implied()])].sort().map((key) => viewOf(key).waypoint);
    },
    scopeOf: scope,
    routeStatuses: () => [...statuses.values()],
    gatewayStatuses: () => [...bindings.gateways()].flatMap(({ metadata }) => viewOf(waypointKey(metadata)).status ?? []),
    faults: () => [
      ...large.values(),
      ...policies.faults(),
      ...[...standings].flatMap(([key, standing]): ObjectFault[] => {
        const reason =
          standing.kind === "absent" ? `${standing.reason}: it is reached without a waypoint` : hasWaypoint(standing) ? standing.fault : "";
        if (reason === "") return [];
        return [{ key, code: "E_WAYPOINT_ABSENT", field: "metadata.labels", reason }];
      }),
    ],
  };
}

const NONE: Standing = { kind: "none", reason: "" };

/** As a dependency of a scope. */
const policiesOfNamespace = (namespace: string): string => `policies of ${namespace}`;
