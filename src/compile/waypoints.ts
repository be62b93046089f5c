// The part of the compiler that is about waypoints: tables of routes for services that have one, what became of routes and Gateways, and what
// each waypoint needs to know. Incremental as the rest: a change costs what depends on it.
import { isDeepStrictEqual } from "node:util";
import type { Routes } from "#contract/gen/route_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import { type MeshObject, type ObjectKey, keyOf as objectKeyOf, type Pod, type Service } from "#mesh/objects.ts";
import { withOpaquePorts } from "#mesh/opaque.ts";
import type { ParentRef, Route } from "#mesh/route.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { gatewayStatus } from "#waypoint/gateway-status.ts";
import { type ParentFacts, routeStatus } from "#waypoint/route-status.ts";
import { hasWaypoint, type Standing, waypointsOf } from "#waypoint/standing.ts";
import type { GatewayStatus, RouteStatus } from "#waypoint/status.ts";
import { closedTable, compileTable, type Table } from "#waypoint/table.ts";
import { type Scope, type Waypoint, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import { bindingIndex } from "./binding-index.ts";
import { isTooLarge, tooLarge } from "./bound.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { encodeRoutes } from "./encode.ts";
import type { ObjectFault, Resource } from "./resource.ts";
import { parentsOf, type ServiceKey } from "./route-index.ts";
import { backendsOf, scopeOf, settled } from "./scope.ts";
import { hostnameOf } from "./service.ts";
import { uidOf } from "./workload.ts";

export type Waypoints = {
  /** An object came or went. */
  note(object: MeshObject): void;
  /** After a batch: services whose WDS resource must be compiled again; `touched` counts the tables that were. */
  settle(): { readonly services: readonly ObjectKey[]; readonly touched: number };
  standing(namespace: string, service: string): Standing;
  routes(): ReadonlyMap<string, Resource>;
  waypoints(): readonly Waypoint[];
  scopeOf(key: WaypointKey): Scope | null;
  routeStatuses(): readonly RouteStatus[];
  gatewayStatuses(): readonly GatewayStatus[];
  faults(): readonly ObjectFault[];
};

/** What stays of a table beside its bytes. */
type Kept = Omit<Table, "routes"> & { readonly service: string; readonly backends: readonly string[] };

type View = { readonly waypoint: Waypoint; readonly status: GatewayStatus | null };

/** Names of the resources that an EndpointSlice became. */
type SlicesOf = (namespace: string, service: string) => Iterable<string>;

export function createWaypoints(cluster: Cluster, settings: CompilerSettings, slicesOf: SlicesOf): Waypoints {
  const bindings = bindingIndex(cluster, settings.adopt);
  /** Of services that have a waypoint, or routes. */
  const tables = new Map<ServiceKey, Kept>();
  const standings = new Map<ServiceKey, Standing>();
  const resources = new Map<string, Resource>();
  /** Services whose tables are too large to be sent. */
  const large = new Map<ObjectKey, ObjectFault>();
  const statuses = new Map<ObjectKey, RouteStatus>();
  /** Of waypoints about which nothing changed since somebody asked. */
  const views = new Map<WaypointKey, View>();
  const scopes = new Map<WaypointKey, Scope>();
  /** Scopes that may be others than they were. */
  const stale = new Set<WaypointKey>();
  /** Services that scopes name, and in which. */
  const scoped = new Map<ServiceKey, Set<WaypointKey>>();
  let dirty = new Set<ServiceKey>();
  const dirtyRoutes = new Set<ObjectKey>();

  const serviceOf = (namespace: string, name: string): Service | undefined => {
    const found = cluster.objects.get(`Service/${namespace}/${name}`);
    return found?.kind === "Service" ? found : undefined;
  };
  const byKey = (key: ServiceKey): Service | undefined => {
    const [namespace = "", name = ""] = key.split("/");
    return serviceOf(namespace, name);
  };
  const resourceName = (key: ServiceKey): string => {
    const [namespace = "", name = ""] = key.split("/");
    return `${namespace}/${hostnameOf(namespace, name, settings)}`;
  };

  function note(object: MeshObject): void {
    const { namespace, name } = object.metadata;
    bindings.note(object, dirty);
    if (object.kind === "Service") {
      for (const key of cluster.routes.sendingTo(`${namespace}/${name}`)) dirty.add(key);
      for (const route of cluster.routes.attachedTo(`${namespace}/${name}`)) dirtyRoutes.add(objectKeyOf(route));
      outdate(`${namespace}/${name}`);
      views.delete(`${namespace}/${name}`);
    } else if ("parents" in object) {
      dirtyRoutes.add(objectKeyOf(object));
      for (const key of parentsOf(object)) dirty.add(key);
    } else if (object.kind === "Pod") notePod(object);
    else if (object.kind === "EndpointSlice") outdate(`${namespace}/${object.service}`);
    else if (object.kind === "Gateway") views.delete(waypointKey(object.metadata));
  }

  /** Most clusters have no waypoint, and most pods are behind none. */
  function notePod(pod: Pod): void {
    const { namespace, labels } = pod.metadata;
    const gateway = gatewayOf(pod, settings.adopt);
    if (gateway !== null) views.delete(waypointKey({ namespace, name: gateway }));
    if (scoped.size === 0) return;
    for (const { metadata } of cluster.services.matching(namespace, labels)) outdate(`${namespace}/${metadata.name}`);
  }

  const outdate = (key: ServiceKey): void => {
    for (const waypoint of scoped.get(key) ?? []) stale.add(waypoint);
  };

  function settle() {
    bindings.settle(dirty);
    const changed: ObjectKey[] = [];
    for (const key of dirty) {
      const before = standings.get(key);
      const now = bindings.standing(key);
      for (const gateway of [before ?? NONE, now].flatMap(waypointsOf)) {
        stale.add(waypointKey(gateway));
        views.delete(waypointKey(gateway));
      }
      if (now.kind === "none") standings.delete(key);
      else standings.set(key, now);
      const service = byKey(key);
      const name = service === undefined ? null : objectKeyOf(service);
      if (name !== null && !isDeepStrictEqual(before ?? NONE, now.kind === "none" ? NONE : now)) changed.push(name);
      recompile(key, service, now);
    }
    for (const key of dirtyRoutes) refresh(key);
    dirtyRoutes.clear();
    const touched = [...dirty].filter((key) => tables.has(key)).length;
    dirty = new Set();
    return { services: changed, touched };
  }

  function recompile(key: ServiceKey, service: Service | undefined, standing: Standing): void {
    const attached = cluster.routes.attachedTo(key);
    for (const route of attached) dirtyRoutes.add(objectKeyOf(route));
    const name = resourceName(key);
    large.delete(`Service/${key}`);
    if (service === undefined || (attached.length === 0 && !hasWaypoint(standing))) {
      tables.delete(key);
      resources.delete(name);
      return;
    }
    const known = { clusterDomain: settings.clusterDomain, service: serviceOf };
    const spoken = withOpaquePorts(service, cluster.namespace(service.metadata.namespace)).service;
    const { routes, verdicts, faults } = compileTable(spoken, attached, known);
    tables.set(key, { verdicts, faults, service: routes.service, backends: backendsOf(routes) });
    if (!hasWaypoint(standing)) resources.delete(name);
    else publish(objectKeyOf(service), name, routes);
  }

  function publish(key: ObjectKey, name: string, routes: Routes): void {
    const whole = encodeRoutes(routes);
    const resource = isTooLarge(whole) ? encodeRoutes(closedTable(routes)) : whole;
    if (resource !== whole)
      large.set(key, tooLarge(key, "E_SOURCE_INVALID", whole, "what the routes of the service are about is refused; make them fewer"));
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

  function factsOf(route: Route, { namespace, name }: ParentRef, index: number): ParentFacts | null {
    const key: ServiceKey = `${namespace}/${name}`;
    const service = serviceOf(namespace, name);
    if (service === undefined) return null;
    const table = tables.get(key);
    return {
      service,
      standing: bindings.standing(key),
      verdict: table?.verdicts.get(route)?.get(index),
      faults: table?.faults.get(route) ?? [],
    };
  }

  /** Its pods, and what somebody named by hand. */
  function* endpointsOf(service: string): Iterable<string> {
    const [namespace = "", hostname = ""] = service.split("/");
    const name = hostname.split(".")[0] ?? "";
    const found = serviceOf(namespace, name);
    if (found === undefined) return;
    if (Object.keys(found.selector).length > 0)
      for (const { metadata } of cluster.pods.find(namespace, found.selector)) yield uidOf(metadata.namespace, metadata.name, settings);
    yield* slicesOf(namespace, name);
  }

  function scope(key: WaypointKey): Scope | null {
    if (bindings.gateway(key) === null && bindings.served(key).length === 0) {
      scopes.delete(key);
      return null;
    }
    const before = scopes.get(key);
    if (before !== undefined && !stale.delete(key)) return before;
    const found = bindings.served(key).flatMap((one) => tables.get(one) ?? []);
    const now = settled(before, scopeOf({ own: resourceName(key), served: found, endpointsOf }));
    scopes.set(key, now);
    stale.delete(key);
    if (before === now) return now;
    for (const service of servicesIn(before)) {
      scoped.get(service)?.delete(key);
      if (scoped.get(service)?.size === 0) scoped.delete(service);
    }
    for (const service of servicesIn(now)) scoped.set(service, (scoped.get(service) ?? new Set()).add(key));
    return now;
  }

  /** Names of workloads are paths, and those of services two parts. */
  const servicesIn = (scope: Scope | undefined): ServiceKey[] =>
    [...(scope?.addresses ?? [])].flatMap((name): ServiceKey[] => {
      const [namespace = "", hostname = "", more] = name.split("/");
      return more === undefined ? [`${namespace}/${hostname.split(".")[0] ?? ""}`] : [];
    });

  function viewOf(key: WaypointKey): View {
    const known = views.get(key);
    if (known !== undefined) return known;
    const [namespace = "", name = ""] = key.split("/");
    const gateway = bindings.gateway(key);
    const served = bindings.served(key);
    const ready = bindings.isReady(key);
    const routes = new Set(served.flatMap((one) => [...(tables.get(one)?.verdicts.keys() ?? [])]));
    const addresses = serviceOf(namespace, name)?.clusterIPs ?? [];
    const className = gateway?.className ?? kubernetes.waypointClass;
    const view: View = {
      waypoint: { namespace, name, gateway, className, ready, services: served.map(resourceName).sort() },
      status: gateway === null ? null : gatewayStatus(gateway, { ready, addresses, attachedRoutes: routes.size }),
    };
    views.set(key, view);
    return view;
  }

  return {
    note,
    settle,
    standing: (namespace, service) => standings.get(`${namespace}/${service}`) ?? NONE,
    routes: () => resources,
    waypoints: () => {
      const declared = [...bindings.gateways()].map(({ metadata }) => waypointKey(metadata));
      return [...new Set([...declared, ...bindings.implied()])].sort().map((key) => viewOf(key).waypoint);
    },
    scopeOf: scope,
    routeStatuses: () => [...statuses.values()],
    gatewayStatuses: () => [...bindings.gateways()].flatMap(({ metadata }) => viewOf(waypointKey(metadata)).status ?? []),
    faults: () => [
      ...large.values(),
      ...[...standings].flatMap(([key, standing]): ObjectFault[] => {
        const reason =
          standing.kind === "absent"
            ? `${standing.reason}: the service is reached without a waypoint`
            : hasWaypoint(standing)
              ? standing.fault
              : "";
        if (reason === "") return [];
        const [namespace = "", name = ""] = key.split("/");
        return [{ key: `Service/${namespace}/${name}`, code: "E_WAYPOINT_ABSENT", field: "metadata.labels", reason }];
      }),
    ],
  };
}

const NONE: Standing = { kind: "none", reason: "" };
