// Everything known about the cluster, indexed so that each question costs as much as its answer.
import { type Adoption, enrolment } from "#mesh/enrolment.ts";
import {
  type AuthorizationPolicy,
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
import { type Claims, createClaims } from "./claim.ts";
import type { NodeUpdate } from "./compiler.ts";
import { type SliceIndex, sliceIndex } from "./endpoint.ts";
import { type LabelIndex, labelIndex, type SelectorIndex, selectorIndex } from "./label-index.ts";
import { type Governing, oldest } from "./peer-authentication.ts";
import { type EntryIndex, entryIndex } from "./service-entry.ts";

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
  put(object: MeshObject): void;
  remove(object: MeshObject): void;
  namespace(name: string): Namespace | undefined;
  node(name: string): Node | undefined;
  podsOn(node: string): Iterable<Pod>;
  /** Takes what a node said; returns the pods for which it may mean another tunnel. */
  report(update: NodeUpdate): readonly Pod[];
  /** Peers of the pod must use HBONE. */
  isTunnelled(pod: Pod): boolean;
  /** `workload` is the PeerAuthentication that governs by selector, when the caller knows it already. */
  governing(namespace: string, workload: PeerAuthentication | undefined): Governing;
  workloadPeer(pod: Pod): PeerAuthentication | undefined;
};

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
  const podsByNode = new Map<string, Set<Pod>>();
  const podsByUid = new Map<string, Pod>();
  const captured = new Map<string, Set<string>>();

  const get = <K extends "Namespace" | "Node">(kind: K, name: string) => objects.get(`${kind}//${name}`);
  const namespace = (name: string): Namespace | undefined => {
    const found = get("Namespace", name);
    return found?.kind === "Namespace" ? found : undefined;
  };
  const node = (name: string): Node | undefined => {
    const found = get("Node", name);
    return found?.kind === "Node" ? found : undefined;
  };

  function index(object: MeshObject, act: "add" | "delete"): void {
    claims[act](object);
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
    } else if (object.kind === "AuthorizationPolicy") policies[act](object);
    else if (object.kind === "PeerAuthentication") peers[act](object);
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
    put: (object) => {
      objects.set(keyOf(object), object);
      index(object, "add");
    },
    remove: (object) => {
      objects.delete(keyOf(object));
      index(object, "delete");
    },
    namespace,
    node,
    podsOn: (name) => [...(podsByNode.get(name) ?? [])],
    report: (update) => {
      const before = captured.get(update.node);
      const now = new Set(update.snapshot ? [] : before);
      for (const { uid, captured } of update.pods) {
        if (captured) now.add(uid);
        else now.delete(uid);
      }
      captured.set(update.node, now);
      // Its first words replace the assumption that each of its pods is captured: for those that are, nothing changes.
      if (before === undefined) return [...(podsByNode.get(update.node) ?? [])].filter(({ metadata }) => !now.has(metadata.uid));
      return [...before.symmetricDifference(now)].map((uid) => podsByUid.get(uid)).filter((pod) => pod !== undefined);
    },
    isTunnelled: (pod) =>
      enrolment(namespace(pod.metadata.namespace), pod, { adopt }).enrolled && (captured.get(pod.nodeName)?.has(pod.metadata.uid) ?? true),
    governing: (name, workload) => [
      workload,
      name === rootNamespace ? undefined : oldest(peers.unselective(name)),
      oldest(peers.unselective(rootNamespace)),
    ],
    workloadPeer: ({ metadata }) => oldest(peers.matching(metadata.namespace, metadata.labels)),
  };
}
