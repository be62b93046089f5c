// Everything known about the cluster, indexed so that each question costs as much as its answer.

import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import { type Adoption, enrolment } from "#mesh/enrolment.ts";
import {
  keyOf,
  type MeshObject,
  type Namespace,
  type Node,
  type ObjectKey,
  type PeerAuthentication,
  type Pod,
  type Service,
  type ServiceEntry,
} from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { type Claims, createClaims } from "./claim.ts";
import type { NodeUpdate } from "./compiler.ts";
import { type SliceIndex, sliceIndex } from "./endpoint.ts";
import { type LabelIndex, labelIndex, type SelectorIndex, selectorIndex } from "./label-index.ts";
import { type Governing, oldest } from "./peer-authentication.ts";
import { type RouteIndex, routeIndex } from "./route-index.ts";
import { type EntryIndex, entryIndex } from "./service-entry.ts";
import { attachedOf, type TargetIndex, targetIndex } from "./target-index.ts";

export type Cluster = {
  readonly objects: ReadonlyMap<ObjectKey, MeshObject>;
  readonly pods: LabelIndex<Pod>;
  readonly services: SelectorIndex<Service>;
  readonly policies: SelectorIndex<AuthorizationPolicy>;
  readonly peers: SelectorIndex<PeerAuthentication>;
  readonly claims: Claims;
  readonly slices: SliceIndex;
  readonly entries: EntryIndex;
  readonly selectiveEntries: SelectorIndex<ServiceEntry>;
  readonly routes: RouteIndex;
  /** Policies by what they are attached to; `policies` has the others. */
  readonly attached: TargetIndex;
  put(object: MeshObject): void;
  remove(object: MeshObject): void;
  namespace(name: string): Namespace | undefined;
  node(name: string): Node | undefined;
  podsOn(node: string): Iterable<Pod>;
  /** After a batch of objects: notes which of these pods run outside the mesh. */
  settle(pods: Iterable<ObjectKey>): void;
  /** Takes what a node said; returns the pods for which it may mean another tunnel. */
  report(update: NodeUpdate): readonly Pod[];
  /** Peers of the pod must use HBONE. */
  isTunnelled(pod: Pod): boolean;
  /** `workload` is the PeerAuthentication that governs by selector, when the caller knows it already. */
  governing(namespace: string, workload: PeerAuthentication | undefined, what?: Governs): Governing;
  workloadPeer(pod: Pod, what?: Governs): PeerAuthentication | undefined;
};

/** With those that are only tried, as if they were enforced, or without. */
export type Governs = "enforced" | "tried";

const ofThose = (peers: Iterable<PeerAuthentication>, what: Governs): PeerAuthentication | undefined =>
  oldest([...peers].filter(({ dryRun }) => what === "tried" || !dryRun));

export function createCluster(rootNamespace: string, adopt: Adoption): Cluster {
  const objects = new Map<ObjectKey, MeshObject>();
  const pods = labelIndex<Pod>();
  const services = selectorIndex<Service>();
  const policies = selectorIndex<AuthorizationPolicy>();
  const peers = selectorIndex<PeerAuthentication>();
  const claims = createClaims();
  const slices = sliceIndex();
  const entries = entryIndex();
  const selectiveEntries = selectorIndex<ServiceEntry>();
  const routes = routeIndex();
  const attached = targetIndex(rootNamespace);
  const podsByNode = new Map<string, Set<Pod>>();
  const podsByUid = new Map<string, Pod>();
  /** By node: what it said of each pod. */
  const said = new Map<string, ReadonlyMap<string, boolean>>();
  /** Pods that were seen running outside the mesh and are not captured since: everybody speaks to them in clear, and may until they are. */
  const open = new Set<string>();
  /** Pods that were removed, or replaced, since the last settle. */
  const removed = new Set<string>();

  const get = <K extends "Namespace" | "Node">(kind: K, name: string) => objects.get(`${kind}//${name}`);
  const namespace = (name: string): Namespace | undefined => {
    const found = get("Namespace", name);
    return found?.kind === "Namespace" ? found : undefined;
  };
  const node = (name: string): Node | undefined => {
    const found = get("Node", name);
    return found?.kind === "Node" ? found : undefined;
  };

  const isEnrolled = (pod: Pod): boolean => enrolment(namespace(pod.metadata.namespace), pod, { adopt }).enrolled;

  function index(object: MeshObject, act: "add" | "delete"): void {
    claims[act](object);
    const policy = attachedOf(object);
    if (object.kind === "Pod") {
      pods[act](object);
      const onNode = podsByNode.get(object.nodeName) ?? new Set<Pod>();
      onNode[act](object);
      if (onNode.size === 0) podsByNode.delete(object.nodeName);
      else podsByNode.set(object.nodeName, onNode);
      if (act === "add") podsByUid.set(object.metadata.uid, object);
      else if (podsByUid.get(object.metadata.uid) === object) podsByUid.delete(object.metadata.uid);
    } else if (object.kind === "Service") services[act](object);
    else if (object.kind === "EndpointSlice") slices[act](object);
    else if (object.kind === "ServiceEntry") {
      entries[act](object);
      selectiveEntries[act](object);
    } else if (policy !== null) attached[act](policy);
    else if (object.kind === "AuthorizationPolicy") policies[act](object);
    else if (object.kind === "PeerAuthentication") peers[act](object);
    else if ("parents" in object) routes[act](object);
  }

  return {
    objects,
    pods,
    services,
    policies,
    peers,
    claims,
    slices,
    entries,
    selectiveEntries,
    routes,
    attached,
    put: (object) => {
      objects.set(keyOf(object), object);
      index(object, "add");
    },
    remove: (object) => {
      objects.delete(keyOf(object));
      index(object, "delete");
      if (object.kind === "Pod") removed.add(object.metadata.uid);
    },
    namespace,
    node,
    podsOn: (name) => [...(podsByNode.get(name) ?? [])],
    settle: (keys) => {
      for (const uid of removed) if (!podsByUid.has(uid)) open.delete(uid);
      removed.clear();
      for (const key of keys) {
        const pod = objects.get(key);
        if (pod?.kind === "Pod" && pod.podIPs.length > 0 && !isEnrolled(pod) && gatewayOf(pod, adopt) === null) open.add(pod.metadata.uid);
      }
    },
    report: ({ node, snapshot, pods }) => {
      const before = said.get(node) ?? new Map<string, boolean>();
      const now = new Map(snapshot ? [] : before);
      const wereOpen = new Set(pods.filter(({ uid }) => open.has(uid)).map(({ uid }) => uid));
      for (const { uid, captured } of pods) {
        if (captured === null) now.delete(uid);
        else now.set(uid, captured);
        if (captured === true) open.delete(uid);
      }
      said.set(node, now);
      const named = new Set([...before.keys(), ...now.keys()]);
      return (
        [...named]
          // Of most pods a node says for the first time what counted without its word.
          .filter((uid) => (before.get(uid) ?? !(open.has(uid) || wereOpen.has(uid))) !== (now.get(uid) ?? !open.has(uid)))
          .map((uid) => podsByUid.get(uid))
          .filter((pod) => pod !== undefined)
      );
    },
    isTunnelled: (pod) =>
      gatewayOf(pod, adopt) !== null || (isEnrolled(pod) && (said.get(pod.nodeName)?.get(pod.metadata.uid) ?? !open.has(pod.metadata.uid))),
    governing: (name, workload, what = "enforced") => [
      workload,
      name === rootNamespace ? undefined : ofThose(peers.unselective(name), what),
      ofThose(peers.unselective(rootNamespace), what),
    ],
    workloadPeer: ({ metadata }, what = "enforced") => ofThose(peers.matching(metadata.namespace, metadata.labels), what),
  };
}
