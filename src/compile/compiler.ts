// Turns changes of desired state into changes of xDS resources, at the cost of what changed and not of the cluster.

import { asTried } from "#mesh/dry-run.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import { keyOf, type MeshObject, type ObjectKey, type Pod, type ServiceEntry } from "#mesh/objects.ts";
import { withOpaquePorts } from "#mesh/opaque.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import type { Change } from "#source/source.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import { hasWaypoint, type Standing } from "#waypoint/standing.ts";
import type { GatewayStatus, RouteStatus } from "#waypoint/status.ts";
import type { Scope, Waypoint, WaypointKey } from "#waypoint/waypoint.ts";
import { compileAuthorization } from "./authorization.ts";
import { closedPolicy, isTooLarge, tooLarge, UNTOLD_POLICY } from "./bound.ts";
import { createCluster } from "./cluster.ts";
import { affected, type Dirty, noneDirty } from "./dirty.ts";
import { encodeAuthorization, encodeService, encodeWorkload } from "./encode.ts";
import { compileEndpoints } from "./endpoint.ts";
import { convert, convertedName, convertTried, peerFaults, peerPolicyName, staticStrict, triedPolicyName } from "./peer-authentication.ts";
import type { Policies, PolicyResources } from "./policies.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type Compiled, type Delta, type ObjectFault, type Resource, type TypeUrl } from "./resource.ts";
import { compileService, hostnameOf } from "./service.ts";
import { compileEntries, type EntryHost, settleHosts } from "./service-entry.ts";
import { createWaypoints } from "./waypoints.ts";
import { compileWorkload, isReachable, uidOf, type WorkloadInputs } from "./workload.ts";

export type CompilerSettings = {
  readonly trustDomain: string;
  readonly clusterDomain: string;
  /** Policies without a selector here govern the whole mesh. */
  readonly rootNamespace: string;
  /** Name of the only network, usually empty. */
  readonly network: string;
  /** Whose labels count beside ours. */
  readonly adopt: Adoption;
  /** First part of workload uids, "Kubernetes". */
  readonly clusterId: string;
};

/**
 * What a node's stream said; it holds also after the stream broke. `snapshot` replaces all that it said before. Of whom it says nothing, or
 * nothing any more (`captured: null`), counts as captured if labels ask for it: peers must use HBONE, for such a pod is only just being made, or
 * is over, and its address may be anybody's. The one exception is a pod that was seen running outside the mesh: until a node says that it is
 * captured, it is reached as before.
 */
export type NodeUpdate = {
  readonly node: string;
  readonly snapshot: boolean;
  readonly pods: readonly { readonly uid: string; readonly captured: boolean | null }[];
};

export type Compiler = {
  /** Applies a batch of the source (null = none) and node reports as one. */
  apply(
    change: Pick<Change, "reset" | "put" | "remove"> | null,
    nodes?: readonly NodeUpdate[],
    released?: readonly DestinationKey[],
  ): Compiled;
  /** Services past whose waypoints nobody is let any more, as soon as `released` says that every node knows of the waypoint. */
  awaiting(): readonly DestinationKey[];
  /** Every resource in force of a type. */
  resources(typeUrl: TypeUrl): Iterable<Resource>;
  /** Every object that is not in force as written, now. */
  faults(): readonly ObjectFault[];
  /** Objects in force, for identity checks and status. */
  objects(): Iterable<MeshObject>;
  /** What waypoints know of the services that they serve, by "namespace/hostname": encoded trackbed.route.v1.Routes. */
  routes(): ReadonlyMap<string, Resource>;
  /** What waypoints are told beside them, and what became of the policies that it is made of. */
  readonly policies: Pick<Policies, keyof PolicyResources | "accessOfPods" | "statuses">;
  /** Every waypoint that there should be. */
  waypoints(): readonly Waypoint[];
  /** Null when there is no such waypoint. */
  scopeOf(key: WaypointKey): Scope | null;
  /** Of every route, the same object as long as it says the same. */
  routeStatuses(): readonly RouteStatus[];
  /** Of every Gateway of our classes. */
  gatewayStatuses(): readonly GatewayStatus[];
};

/** Resources of one type in force, and what became of them since the last flush. */
type Output = {
  readonly held: Map<string, Resource>;
  readonly upsert: Map<string, Resource>;
  readonly remove: Set<string>;
};

/** A workload that somebody named by its address. */
type Addressed = { readonly uid: string; readonly namespace: string };

/** What the ServiceEntries of a namespace became. */
type Entries = {
  readonly names: ReadonlySet<string>;
  readonly faults: readonly ObjectFault[];
  /** "namespace/host" */
  readonly byHost: ReadonlyMap<string, readonly Addressed[]>;
};

/** What one object has become. */
type Outcome = {
  readonly output: Output;
  readonly name: string;
  /** Null when nothing of it is in force. */
  readonly resource: Resource | null;
  readonly faults: readonly ObjectFault[];
};

const absent = (output: Output, name: string): Outcome => ({ output, name, resource: null, faults: [] });

export function createCompiler(settings: CompilerSettings): Compiler {
  const { rootNamespace } = settings;
  const cluster = createCluster(rootNamespace, settings.adopt);
  const faults = new Map<ObjectKey, readonly ObjectFault[]>();
  /** What each EndpointSlice became, by name. */
  const endpoints = new Map<ObjectKey, ReadonlyMap<string, Addressed>>();
  /** What the ServiceEntries of each namespace became. */
  const entries = new Map<string, Entries>();
  const waypoints = createWaypoints(cluster, settings, { addressed, policiesOf });
  const addresses: Output = { held: new Map(), upsert: new Map(), remove: new Set() };
  const authorizations: Output = { held: new Map(), upsert: new Map(), remove: new Set() };
  const strict = encodeAuthorization(staticStrict(rootNamespace));
  set(authorizations, strict.name, strict);

  function workload(key: ObjectKey): Outcome {
    const object = cluster.objects.get(key);
    const { namespace, name } = partsOf(key);
    const uid = uidOf(namespace, name, settings);
    if (object?.kind !== "Pod" || !isReachable(object)) return absent(addresses, uid);
    // Without an address it is still a workload: its own node must know its policies.
    const settled = cluster.claims.settle(object);
    const { object: pod } = settled;
    const standing = waypoints.standingOf(object);
    const faults = [...settled.faults, ...withoutWaypoint(key, standing)];
    const inputs = {
      pod,
      node: cluster.node(pod.nodeName),
      tunnel: cluster.isTunnelled(pod),
      entries: entryHostsOf(pod),
      services: cluster.services.matching(namespace, pod.metadata.labels).filter(({ type }) => type !== "ExternalName"),
      policies: policiesOf(pod),
      waypoint: standing.kind === "ready" ? standing.gateway : null,
    };
    const encode = (given: WorkloadInputs) => encodeWorkload(compileWorkload(given, settings), !pod.hostNetwork);
    const resource = encode(inputs);
    if (!isTooLarge(resource)) return { output: addresses, name: uid, resource, faults };
    const effect = `${inputs.policies.length} policies and ${inputs.services.length} services select the pod; it is refused to everybody`;
    const closed = encode({ ...inputs, services: [], entries: [], policies: [UNTOLD_POLICY] });
    return { output: addresses, name: uid, resource: closed, faults: [...faults, tooLarge(key, "E_POLICY_INVALID", resource, effect)] };
  }

  function addressed(name: string): Addressed[] {
    const [namespace = "", host = ""] = name.split("/");
    const [service = ""] = host.split(".");
    const slices = name === `${namespace}/${hostnameOf(namespace, service, settings)}` ? [...cluster.slices.of(namespace, service)] : [];
    return [
      ...slices.flatMap((one) => [...(endpoints.get(keyOf(one))?.values() ?? [])]),
      ...(entries.get(namespace)?.byHost.get(name) ?? []),
    ];
  }

  /** Those that pick the pod by selector: policies without one reach it by their scope. */
  function policiesOf(pod: Pod): string[] {
    const { namespace, labels } = pod.metadata;
    const picking = [...new Set([namespace, rootNamespace])].flatMap((one) => cluster.policies.matching(one, labels));
    const peer = peerPolicyName(cluster.governing(namespace, cluster.workloadPeer(pod)), rootNamespace);
    const tried = triedPolicyName(cluster.governing(namespace, cluster.workloadPeer(pod, "tried"), "tried"), rootNamespace);
    return [
      ...picking.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`),
      ...(peer === null ? [] : [peer]),
      ...(tried === null ? [] : [tried]),
      ...waypoints.exclusive.policiesOf(pod),
    ].sort();
  }

  function service(key: ObjectKey): Outcome {
    const object = cluster.objects.get(key);
    const { namespace, name } = partsOf(key);
    const resourceName = `${namespace}/${hostnameOf(namespace, name, settings)}`;
    if (object?.kind !== "Service") return absent(addresses, resourceName);
    const settled = cluster.claims.settle(object);
    const opaque = withOpaquePorts(settled.object, cluster.namespace(namespace));
    const compiled = compileService(opaque.service, waypoints.standing(`Service/${namespace}/${name}`), settings);
    const { service } = compiled;
    const misread = opaque.faults.map(({ annotation, reason }): ObjectFault => {
      return { key, code: "E_SOURCE_INVALID", field: `metadata.annotations.${annotation}`, reason };
    });
    const faults = [...settled.faults, ...compiled.faults, ...misread];
    if (service === null) return { output: addresses, name: resourceName, resource: null, faults };
    const resource = encodeService(service);
    if (!isTooLarge(resource)) return { output: addresses, name: resourceName, resource, faults };
    const fault = tooLarge(key, "E_SOURCE_INVALID", resource, "the service is without ports");
    return { output: addresses, name: resourceName, resource: encodeService({ ...service, ports: [] }), faults: [...faults, fault] };
  }

  /** An endpoint is a resource of its own, so a slice becomes as many as it has, and those that it no longer has go. */
  function slice(key: ObjectKey): void {
    const object = cluster.objects.get(key);
    const before = new Set(endpoints.get(key)?.keys());
    const compiled =
      object?.kind === "EndpointSlice"
        ? compileEndpoints(object, cluster.objects.get(`Service/${object.metadata.namespace}/${object.service}`), cluster, settings)
        : [];
    const now = new Map(compiled.map(({ uid, namespace }) => [uid, { uid, namespace }]));
    for (const uid of before.difference(now)) set(addresses, uid, null);
    for (const one of compiled) set(addresses, one.uid, encodeWorkload(one, false));
    if (now.size === 0) endpoints.delete(key);
    else endpoints.set(key, now);
  }

  function entryHostsOf(pod: Pod): readonly EntryHost[] {
    const { namespace, labels } = pod.metadata;
    const picking = new Set(cluster.selectiveEntries.matching(namespace, labels));
    return picking.size === 0 ? [] : settleHosts(cluster.entries.of(namespace), settings).hosts.filter(({ entry }) => picking.has(entry));
  }

  /** All of a namespace: who has a host depends on all. */
  function entriesOf(namespace: string): void {
    const standing = ({ metadata }: ServiceEntry) => waypoints.standing(`ServiceEntry/${metadata.namespace}/${metadata.name}`);
    const compiled = compileEntries(cluster.entries.of(namespace), standing, cluster, settings);
    const resources = [...compiled.services.map(encodeService), ...compiled.workloads.map((one) => encodeWorkload(one, false))];
    const names = new Set(resources.map(({ name }) => name));
    for (const name of (entries.get(namespace)?.names ?? new Set()).difference(names)) set(addresses, name, null);
    for (const one of resources) set(addresses, one.name, one);
    const { faults, workloads } = compiled;
    if (names.size + faults.length === 0) entries.delete(namespace);
    else entries.set(namespace, { names, faults, byHost: Map.groupBy(workloads, ({ services }) => Object.keys(services)[0] ?? "") });
  }

  function policy(key: ObjectKey): Outcome {
    const object = cluster.objects.get(key);
    const { namespace, name } = partsOf(key);
    const resourceName = `${namespace}/${name}`;
    if (object?.kind !== "AuthorizationPolicy") return absent(authorizations, resourceName);
    // With targets it is for waypoints.
    if (object.targets.length > 0) return absent(authorizations, resourceName);
    const tried = asTried(object, cluster.namespace(namespace));
    const compiled = compileAuthorization(tried.policy, rootNamespace);
    const misread = tried.faults.map(({ annotation, reason }): ObjectFault => {
      return { key, code: "E_SOURCE_INVALID", field: `metadata.annotations.${annotation}`, reason };
    });
    const resource = encodeAuthorization(compiled.authorization);
    if (!isTooLarge(resource)) return { output: authorizations, name: resourceName, resource, faults: [...compiled.faults, ...misread] };
    const closed = encodeAuthorization(compileAuthorization(closedPolicy(tried.policy), rootNamespace).authorization);
    const fault = tooLarge(key, "E_POLICY_INVALID", resource, "the policy denies all that it selects");
    return { output: authorizations, name: resourceName, resource: closed, faults: [fault] };
  }

  function peer(key: ObjectKey): Outcome {
    const object = cluster.objects.get(key);
    const { namespace, name } = partsOf(key);
    const resourceName = convertedName(namespace, name);
    if (object?.kind !== "PeerAuthentication") return absent(authorizations, resourceName);
    const selective = isEmptySelector(object.selector) ? undefined : object;
    const converted = object.dryRun
      ? convertTried(object, cluster.governing(namespace, selective, "tried"), rootNamespace)
      : selective && convert(cluster.governing(namespace, selective), rootNamespace);
    return {
      output: authorizations,
      name: resourceName,
      resource: converted == null ? null : encodeAuthorization(converted),
      faults: peerFaults(object, rootNamespace),
    };
  }

  function recompile(keys: Iterable<ObjectKey>, compile: (key: ObjectKey) => Outcome): void {
    for (const key of keys) {
      const outcome = compile(key);
      set(outcome.output, outcome.name, outcome.resource);
      if (outcome.faults.length === 0) faults.delete(key);
      else faults.set(key, outcome.faults);
    }
  }

  /** Puts one object in force in place of what its key held, and marks what depends on either. */
  function replace(key: ObjectKey, object: MeshObject | null, dirty: Dirty): void {
    const before = cluster.objects.get(key);
    if (before !== undefined) {
      affected(before, cluster, rootNamespace, dirty);
      waypoints.note(before);
      cluster.remove(before);
    }
    if (object === null) return;
    cluster.put(object);
    affected(object, cluster, rootNamespace, dirty);
    waypoints.note(object);
  }

  return {
    apply: (change, nodes = [], released = []) => {
      const dirty = noneDirty();
      if (change !== null) {
        const named = new Set(change.put.map(keyOf));
        const gone = change.reset ? [...cluster.objects.keys()].filter((key) => !named.has(key)) : change.remove;
        for (const key of gone) replace(key, null, dirty);
        for (const object of change.put) replace(keyOf(object), object, dirty);
      }
      cluster.settle(dirty.pods);
      for (const update of nodes) for (const pod of cluster.report(update)) dirty.pods.add(keyOf(pod));
      const { destinations, pods, policies, touched } = waypoints.settle({ released, first: change?.reset === true });
      for (const key of destinations) {
        if (key.startsWith("Service/")) dirty.services.add(key);
        else dirty.entries.add(partsOf(key).namespace);
      }
      for (const key of pods) dirty.pods.add(key);
      for (const [name, resource] of policies) set(authorizations, name, resource);
      recompile(dirty.policies, policy);
      recompile(dirty.peers, peer);
      recompile(dirty.services, service);
      recompile(dirty.pods, workload);
      for (const key of dirty.pods) {
        const pod = cluster.objects.get(key);
        if (pod?.kind !== "Pod") continue;
        for (const one of cluster.slices.naming(pod.podIPs)) dirty.slices.add(keyOf(one));
        for (const one of cluster.entries.naming(pod.podIPs)) dirty.entries.add(one);
      }
      for (const key of dirty.slices) slice(key);
      for (const one of dirty.entries) entriesOf(one);
      const recompiled = Object.values(dirty).reduce((sum, { size }) => sum + size, touched);
      return { deltas: flush(authorizations, addresses), recompiled };
    },
    resources: (typeUrl) => (typeUrl === ADDRESS_TYPE ? addresses : authorizations).held.values(),
    faults: () => [...[...faults.values()].flat(), ...[...entries.values()].flatMap((one) => one.faults), ...waypoints.faults()],
    objects: () => cluster.objects.values(),
    routes: waypoints.routes,
    policies: waypoints.policies,
    awaiting: waypoints.exclusive.awaiting,
    waypoints: waypoints.waypoints,
    scopeOf: waypoints.scopeOf,
    routeStatuses: waypoints.routeStatuses,
    gatewayStatuses: waypoints.gatewayStatuses,
  };
}

/** What stands against the waypoint that a pod names by its own label. */
function withoutWaypoint(key: ObjectKey, standing: Standing): ObjectFault[] {
  const reason =
    standing.kind === "absent"
      ? `${standing.reason}: who asks for the pod by its address reaches it without a waypoint`
      : hasWaypoint(standing)
        ? standing.fault
        : "";
  return reason === "" ? [] : [{ key, code: "E_WAYPOINT_ABSENT", field: "metadata.labels", reason }];
}

/** The names of an object that may be gone. */
function partsOf(key: ObjectKey): { readonly namespace: string; readonly name: string } {
  const [, namespace = "", name = ""] = key.split("/");
  return { namespace, name };
}

function set(output: Output, name: string, resource: Resource | null): void {
  const held = output.held.get(name);
  if (resource === null) {
    if (held === undefined) return;
    output.held.delete(name);
    output.upsert.delete(name);
    output.remove.add(held.name);
  } else if (held?.version !== resource.version) {
    output.held.set(name, resource);
    output.upsert.set(name, resource);
    output.remove.delete(resource.name);
  }
}

/** No workload may arrive before the policies that it names, and no policy may go before the workloads that named it. */
function flush(authorizations: Output, addresses: Output): Delta[] {
  const deltas: Delta[] = [
    { typeUrl: AUTHORIZATION_TYPE, upsert: [...authorizations.upsert.values()], remove: [] },
    { typeUrl: ADDRESS_TYPE, upsert: [...addresses.upsert.values()], remove: [...addresses.remove] },
    { typeUrl: AUTHORIZATION_TYPE, upsert: [], remove: [...authorizations.remove] },
  ];
  for (const { upsert, remove } of [authorizations, addresses]) {
    upsert.clear();
    remove.clear();
  }
  return deltas.filter(({ upsert, remove }) => upsert.length > 0 || remove.length > 0);
}
