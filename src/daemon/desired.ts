// Which pods this node should have in the mesh: the source's objects, narrowed to one node and told as changes of single pods.
import { normalize } from "node:path";
import { annotations } from "#contract/tables.ts";
import type { Desired, Fault as EnrolFault } from "#enrol/state.ts";
import { formatAddress, parseAddress } from "#mesh/address.ts";
import { compareAge } from "#mesh/age.ts";
import { type AnnotationFault, type CaptureSpec, captureSpec } from "#mesh/capture.ts";
import { searchList } from "#mesh/dns.ts";
import { type Adoption, bypassUntil, type Enrolment, enrolment, wishOf } from "#mesh/enrolment.ts";
import { keyOf, type Namespace, type ObjectKey, type Pod } from "#mesh/objects.ts";
import { type Observation, observation } from "#mesh/observe.ts";
import type { Change, Fault, Places } from "#source/source.ts";
import { annotated, type Quarters } from "./quarters.ts";

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
  readonly observe: Observation;
  /** Rules come before identity and policy: what claims another pod's address will never have a policy, and must not stay in clear for it. */
  readonly closed: boolean;
  /** Nothing of it runs on this node. */
  readonly vacant: boolean;
  /** Why labels that ask for the mesh are not followed. */
  readonly refused: EnrolFault | null;
  readonly annotationFaults: readonly AnnotationFault[];
};

export type DesiredPods = {
  /** The node's pods by uid after this batch. */
  update(change: Change): ReadonlyMap<string, PodSpec>;
  /** The same pods as settings, quarters and clock of this moment have them. */
  again(): ReadonlyMap<string, PodSpec>;
  /** Objects that were read by themselves, ahead of the source. */
  put(namespace: Namespace | null, pod: Pod): ReadonlyMap<string, PodSpec>;
  /** The last known objects of a pod, undefined where none is known. */
  objects(namespace: string, name: string): { readonly namespace: Namespace | undefined; readonly pod: Pod | undefined };
  /** The node's pods as the source has them. */
  local(): Iterable<Pod>;
  /** An enrolled pod's network namespace is not known. */
  readonly seeking: boolean;
  /** Every known namespace, and whether it or a pod of this node in it is enrolled. */
  namespaces(): ReadonlyMap<string, boolean>;
  /** Names of namespaces that are bypassed now, and when that changes next. */
  bypasses(): { readonly names: readonly string[]; readonly next: number | null };
  readonly faults: readonly Fault[];
  /** A Pod document cannot be read: a pod that is not named may still be wanted. */
  readonly incomplete: boolean;
  /** Why it is incomplete, null when it is not: for people. */
  readonly unread: string | null;
};

export type DesiredOptions = {
  /** Where pods live; default: where their annotation says. */
  readonly quarters?: Quarters;
  /** Who is in the mesh; default: whom labels ask for. */
  readonly decide?: (namespace: Namespace | undefined, pod: Pod) => Enrolment;
  /** Whose labels count beside ours. */
  readonly adopt?: Adoption;
};

/** `clusterDomain` is asked at each update: control may name another one. */
export function desiredPods(node: string, clusterDomain: () => string, options: DesiredOptions = {}): DesiredPods {
  const { quarters = annotated, adopt = "none" } = options;
  const decide = options.decide ?? ((namespace, pod) => enrolment(namespace, pod, { adopt }));
  const namespaces = new Map<ObjectKey, Namespace>();
  const pods = new Map<ObjectKey, Pod>();
  let faults: readonly Fault[] = [];
  let conflicts: readonly Fault[] = [];
  let latest: readonly PodSpec[] = [];
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
    const addressOwners = new Map<string, PodSpec>();
    const found: Fault[] = [];
    const specs = [...pods.values()].sort(compareAge).map((pod) => {
      const namespace = namespaceOf(pod.metadata.namespace);
      const spec = podSpec(namespace, pod, domain, decide(namespace, pod), quarters);
      if (spec.desired !== "enrolled") return spec;
      const contested = spec.addresses.filter((address) => addressOwners.has(address));
      for (const address of spec.addresses) if (!addressOwners.has(address)) addressOwners.set(address, spec);
      if (spec.netns === null) return spec;
      const owner = owners.get(normalize(spec.netns));
      if (owner !== undefined) {
        found.push(conflict(keyOf(pod), spec, owner));
        return withoutNetns(spec, owner);
      }
      owners.set(normalize(spec.netns), spec);
      return contested.length === 0 ? spec : { ...spec, closed: true };
    });
    conflicts = found;
    latest = specs;
    return new Map(specs.map((spec) => [spec.uid, spec]));
  }

  function conflict(key: ObjectKey, spec: PodSpec, owner: PodSpec): Fault {
    const { file, line } = places.get(key) ?? { file: "", line: 0 };
    const reason = `the network namespace ${spec.netns} of pod ${nameOf(spec)} is that of pod ${nameOf(owner)}, which is older or comes first by name`;
    return { code: "E_SOURCE_INVALID", key, file, line, field: `metadata.annotations.${annotations.netns}`, reason };
  }

  const namespaceOf = (name: string): Namespace | undefined => namespaces.get(`Namespace//${name}`);

  return {
    update,
    again,
    put: (namespace, pod) => {
      if (namespace !== null) namespaces.set(keyOf(namespace), namespace);
      if (pod.nodeName === node) pods.set(keyOf(pod), pod);
      return again();
    },
    objects: (namespace, name) => ({ namespace: namespaceOf(namespace), pod: pods.get(`Pod/${namespace}/${name}`) }),
    local: () => pods.values(),
    get seeking() {
      return latest.some(({ desired, netns }) => desired === "enrolled" && netns === null);
    },
    namespaces: () => {
      const known = new Map<string, boolean>();
      for (const namespace of namespaces.values()) known.set(namespace.metadata.name, isLabelled(namespace, adopt));
      for (const pod of pods.values())
        if (decide(namespaceOf(pod.metadata.namespace), pod).enrolled) known.set(pod.metadata.namespace, true);
      return known;
    },
    bypasses: () => {
      const now = Date.now();
      const under = [...namespaces.values()].map((one) => ({ name: one.metadata.name, until: bypassUntil(one) ?? 0 }));
      const active = under.filter(({ until }) => until > now);
      return { names: active.map(({ name }) => name), next: active.length === 0 ? null : Math.min(...active.map(({ until }) => until)) };
    },
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

/** Also a namespace that is bypassed at this moment: the bypass may end while nobody watches. */
const isLabelled = ({ metadata }: Namespace, adopt: Adoption): boolean => wishOf(metadata, adopt)?.value === "enabled";

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

export function podSpec(
  namespace: Namespace | undefined,
  pod: Pod,
  clusterDomain: string,
  { enrolled, code, reason }: Enrolment,
  quarters: Quarters,
): PodSpec {
  const { spec, faults } = captureSpec(namespace, pod);
  const { observe, faults: unobserved } = observation(namespace, pod);
  const { netns, addresses, left, vacant, faults: lost } = quarters.of(pod, enrolled);
  const over = left || pod.phase === "Succeeded" || pod.phase === "Failed";
  return {
    uid: pod.metadata.uid,
    namespace: pod.metadata.namespace,
    name: pod.metadata.name,
    serviceAccount: pod.serviceAccountName,
    desired: enrolled && !left ? "enrolled" : over ? quarters.over : "absent",
    netns: pod.hostNetwork ? null : netns,
    addresses: addresses
      .map(parseAddress)
      .filter((bytes) => bytes !== null)
      .map(formatAddress),
    dnsSearch: searchList(pod, clusterDomain),
    capture: spec,
    observe,
    closed: false,
    vacant,
    refused: code === null ? null : { code, reason },
    annotationFaults: [...faults, ...unobserved, ...lost],
  };
}
