// "Only through the waypoint": where an L7 policy holds for a service, its pods' own nodes refuse what did not come from its waypoint. As an L4
// policy among the others, so that nodes need to know nothing else; and not before every node sends there what is for the service.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Action, AuthorizationSchema, type MatchSchema, Scope } from "#contract/gen/istio/security_pb.ts";
import { annotations, kubernetes } from "#contract/tables.ts";
import type { MeshObject, Pod, Service } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import { type Standing, waypointsOf } from "#waypoint/standing.ts";
import type { GatewayName } from "#waypoint/waypoint.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { encodeAuthorization } from "./encode.ts";
import type { Resource } from "./resource.ts";

export type Exclusive = {
  /** An object came or went. */
  note(object: MeshObject): void;
  /** A destination's waypoint, and whether its policies ask for this. */
  compile(key: DestinationKey, standing: Standing, asked: boolean): void;
  /** What became of the policies since it was asked last, and the pods that name them or do not any more. `first`: of the first batch nobody waits. */
  settle(first: boolean): { readonly policies: ReadonlyMap<string, Resource | null>; readonly pods: readonly Pod[] };
  /** Names of the policies of a pod. */
  policiesOf(pod: Pod): readonly string[];
  /** Services whose nodes must know of the waypoint first. */
  awaiting(): readonly DestinationKey[];
  /** Nodes know of their waypoints. */
  release(keys: Iterable<DestinationKey>): void;
};

type Match = MessageInitShape<typeof MatchSchema>;
type Wanted = { readonly waypoints: readonly GatewayName[] };

/** No policy that somebody writes begins with a dot. */
const nameOf = (namespace: string, service: string): string => `${namespace}/.only-through-waypoint.${service}`;

export function createExclusive(cluster: Cluster, { trustDomain, adopt }: CompilerSettings): Exclusive {
  const wanted = new Map<DestinationKey, Wanted>();
  /** Of these the nodes know. */
  const released = new Set<DestinationKey>();
  const inForce = new Map<DestinationKey, Resource>();
  const dirty = new Set<DestinationKey>();

  const serviceAt = (key: DestinationKey): Service | undefined => {
    const found = cluster.objects.get(key);
    return found?.kind === "Service" ? found : undefined;
  };

  function note(object: MeshObject): void {
    if (object.kind !== "Pod" || wanted.size === 0) return;
    const { namespace, labels } = object.metadata;
    const gateway = gatewayOf(object, adopt);
    // Whom it runs as is who may come in.
    if (gateway !== null)
      for (const [key, { waypoints }] of wanted)
        if (waypoints.some((one) => one.namespace === namespace && one.name === gateway)) dirty.add(key);
    // What a port's name means is each pod's own.
    for (const { metadata } of cluster.services.matching(namespace, labels)) dirty.add(`Service/${namespace}/${metadata.name}`);
  }

  function compile(key: DestinationKey, standing: Standing, asked: boolean): void {
    const service = serviceAt(key);
    const annotated = service?.metadata.annotations[annotations.requireWaypoint] === "true";
    if (service !== undefined && !isEmptySelector(service.selector) && standing.kind === "ready" && (asked || annotated))
      wanted.set(key, { waypoints: waypointsOf(standing) });
    else {
      wanted.delete(key);
      released.delete(key);
    }
    dirty.add(key);
  }

  function settle(first: boolean) {
    const policies = new Map<string, Resource | null>();
    const pods = new Set<Pod>();
    for (const key of dirty) {
      if (first && wanted.has(key)) released.add(key); // it was so before control restarted
      const now = released.has(key) ? policyOf(key) : null;
      const before = inForce.get(key);
      if (before?.version === now?.version) continue;
      if (now === null) inForce.delete(key);
      else inForce.set(key, now);
      policies.set((now ?? before)?.name ?? "", now);
      if (before !== undefined && now !== null) continue; // its pods name it already
      const service = serviceAt(key);
      if (service !== undefined) for (const pod of cluster.pods.find(service.metadata.namespace, service.selector)) pods.add(pod);
    }
    dirty.clear();
    return { policies, pods: [...pods] };
  }

  function policyOf(key: DestinationKey): Resource | null {
    const service = serviceAt(key);
    const waypoints = wanted.get(key)?.waypoints;
    if (service === undefined || waypoints === undefined) return null;
    const { namespace, name } = service.metadata;
    const principals = [...new Set(waypoints.flatMap(identitiesOf))].sort();
    const [, policy = ""] = nameOf(namespace, name).split("/");
    const elsewhere: Match = { notPrincipals: principals.map((value) => ({ matchType: { case: "exact", value } })) };
    const here: Match = { destinationPorts: targetPortsOf(service) };
    return encodeAuthorization(
      create(AuthorizationSchema, {
        name: policy,
        namespace,
        scope: Scope.WORKLOAD_SELECTOR,
        action: Action.DENY,
        rules: [{ clauses: [{ matches: [elsewhere] }, { matches: [here] }] }],
      }),
    );
  }

  /** Control makes its pods run as an account of the Gateway's name; whoever made them by hand chose another. */
  function identitiesOf({ namespace, name }: GatewayName): string[] {
    const pods = [...cluster.pods.find(namespace, { [kubernetes.gatewayNameLabel]: name })].filter((pod) => gatewayOf(pod, adopt) === name);
    return [name, ...pods.map(({ serviceAccountName }) => serviceAccountName)].map(
      (account) => `${trustDomain}/ns/${namespace}/sa/${account}`,
    );
  }

  /** Of several pods that mean different numbers by one name, all of them: a number too many is a pod's other port, which is no way around. */
  function targetPortsOf({ ports, metadata, selector }: Service): number[] {
    const found = ports.filter(isTcp).flatMap(({ targetPort }) => {
      if (typeof targetPort === "number") return [targetPort];
      return [...cluster.pods.find(metadata.namespace, selector)].flatMap((pod) =>
        pod.ports.filter(({ name }) => name === targetPort).map(({ port }) => port),
      );
    });
    return [...new Set(found)].sort((a, b) => a - b);
  }

  return {
    note,
    compile,
    settle,
    policiesOf: ({ metadata: { namespace, labels } }) =>
      inForce.size === 0
        ? []
        : cluster.services
            .matching(namespace, labels)
            .filter(({ metadata }) => inForce.has(`Service/${namespace}/${metadata.name}`))
            .map(({ metadata }) => nameOf(namespace, metadata.name)),
    awaiting: () => [...wanted.keys()].filter((key) => !released.has(key)),
    release: (keys) => {
      for (const key of keys) {
        if (!wanted.has(key)) continue;
        released.add(key);
        dirty.add(key);
      }
    },
  };
}
