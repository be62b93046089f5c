// Which pods this node should have in the mesh: the source's objects, narrowed to one node and told as changes of single pods.
import { isAbsolute, normalize } from "node:path";
import { annotations } from "#contract/tables.ts";
import type { Desired, Fault as EnrolFault } from "#enrol/state.ts";
import { parseAddress } from "#mesh/address.ts";
import { compareAge } from "#mesh/age.ts";
import { type AnnotationFault, type CaptureSpec, captureSpec } from "#mesh/capture.ts";
import { searchList } from "#mesh/dns.ts";
import { enrolment } from "#mesh/enrolment.ts";
import { keyOf, type Namespace, type ObjectKey, type Pod } from "#mesh/objects.ts";
import type { Change, Fault, Places } from "#source/source.ts";

/** Everything about a pod that decides what is done to it. */
export type PodSpec = {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly desired: Desired;
  readonly netns: string | null;
  readonly addresses: readonly string[];
  readonly dnsSearch: readonly string[];
  readonly capture: CaptureSpec;
  /** Why labels that ask for the mesh are not followed. */
  readonly refused: EnrolFault | null;
  readonly annotationFaults: readonly AnnotationFault[];
};

export type DesiredPods = {
  /** The node's pods by uid after this batch. */
  update(change: Change): ReadonlyMap<string, PodSpec>;
  /** The same pods as the settings of this moment have them. */
  again(): ReadonlyMap<string, PodSpec>;
  readonly faults: readonly Fault[];
  /** A Pod document cannot be read: a pod that is not named may still be wanted. */
  readonly incomplete: boolean;
  /** Why it is incomplete, null when it is not: for people. */
  readonly unread: string | null;
};

/** `clusterDomain` is asked at each update: control may name another one. */
export function desiredPods(node: string, clusterDomain: () => string): DesiredPods {
  const namespaces = new Map<ObjectKey, Namespace>();
  const pods = new Map<ObjectKey, Pod>();
  let faults: readonly Fault[] = [];
  let conflicts: readonly Fault[] = [];
  let places: Places = new Map<ObjectKey, never>();

  function update(change: Change): ReadonlyMap<string, PodSpec> {
    if (change.reset) {
      namespaces.clear();
      pods.clear();
    }
    for (const key of change.remove) {
      namespaces.delete(key);
      pods.delete(key);
    }
    for (const object of change.put) {
      if (object.kind === "Namespace") namespaces.set(keyOf(object), object);
      else if (object.kind === "Pod") {
        if (object.nodeName === node) pods.set(keyOf(object), object);
        else pods.delete(keyOf(object));
      }
    }
    faults = change.faults;
    places = change.places;
    return again();
  }

  function again(): ReadonlyMap<string, PodSpec> {
    const domain = clusterDomain();
    const owners = new Map<string, PodSpec>();
    const found: Fault[] = [];
    const specs = [...pods.values()].sort(compareAge).map((pod) => {
      const spec = podSpec(namespaces.get(`Namespace//${pod.metadata.namespace}`), pod, domain);
      if (spec.desired !== "enrolled" || spec.netns === null) return spec;
      const owner = owners.get(normalize(spec.netns));
      if (owner !== undefined) {
        found.push(conflict(keyOf(pod), spec, owner));
        return withoutNetns(spec, owner);
      }
      owners.set(normalize(spec.netns), spec);
      return spec;
    });
    conflicts = found;
    return new Map(specs.map((spec) => [spec.uid, spec]));
  }

  function conflict(key: ObjectKey, spec: PodSpec, owner: PodSpec): Fault {
    const { file, line } = places.get(key) ?? { file: "", line: 0 };
    const reason = `the network namespace ${spec.netns} of pod ${nameOf(spec)} is that of pod ${nameOf(owner)}, which is older or comes first by name`;
    return { code: "E_SOURCE_INVALID", key, file, line, field: `metadata.annotations.${annotations.netns}`, reason };
  }

  return {
    update,
    again,
    get faults() {
      return [...faults, ...conflicts];
    },
    get incomplete() {
      return faults.some(mayBePod);
    },
    get unread() {
      const fault = faults.find(mayBePod);
      if (fault === undefined) return null;
      return `${fault.file}:${fault.line} cannot be read and may name a pod that the engine holds: ${[fault.field, fault.reason].filter(Boolean).join(": ")}`;
    },
  };
}

const mayBePod = ({ key }: Fault): boolean => key === null || key.startsWith("Pod/");

const nameOf = ({ namespace, name }: PodSpec): string => `${namespace}/${name}`;

/** Still enrolled: were it called absent, its own un-enrolment would open the namespace of the owner. */
const withoutNetns = (spec: PodSpec, owner: PodSpec): PodSpec => ({
  ...spec,
  netns: null,
  annotationFaults: [
    ...spec.annotationFaults,
    { annotation: annotations.netns, value: spec.netns ?? "", reason: `is the network namespace of pod ${nameOf(owner)}` },
  ],
});

export function podSpec(namespace: Namespace | undefined, pod: Pod, clusterDomain: string): PodSpec {
  const { enrolled, code, reason } = enrolment(namespace, pod);
  const { spec, faults } = captureSpec(namespace, pod);
  const path = pod.metadata.annotations[annotations.netns];
  const lost =
    path === undefined || isAbsolute(path) ? [] : [{ annotation: annotations.netns, value: path, reason: "must be an absolute path" }];
  const over = pod.phase === "Succeeded" || pod.phase === "Failed";
  return {
    uid: pod.metadata.uid,
    namespace: pod.metadata.namespace,
    name: pod.metadata.name,
    serviceAccount: pod.serviceAccountName,
    desired: enrolled ? "enrolled" : over ? "deleted" : "absent",
    netns: pod.hostNetwork || path === undefined || lost.length > 0 ? null : path,
    addresses: pod.podIPs.filter((ip) => parseAddress(ip) !== null),
    dnsSearch: searchList(pod, clusterDomain),
    capture: spec,
    refused: code === null ? null : { code, reason },
    annotationFaults: [...faults, ...lost],
  };
}
