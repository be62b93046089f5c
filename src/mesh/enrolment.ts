// Which pods are in the mesh: the one answer for control (which tunnels to offer) and for daemons (which pods to capture).
import { annotations, type ErrorCode, labels, product } from "#contract/tables.ts";
import type { Namespace, ObjectMeta, Pod } from "./objects.ts";
import { gatewayOf } from "./waypoint-pod.ts";

export type Enrolment = {
  readonly enrolled: boolean;
  /** For people: which label decided, or what stands against it. */
  readonly reason: string;
  /** Set when labels ask for the mesh and the pod cannot be in it, or when a label cannot be understood. */
  readonly code: ErrorCode | null;
};

/** Whose labels count beside ours: "istio" follows istio.io/dataplane-mode, for clusters that come from Istio's ambient mode. */
export type Adoption = "none" | "istio";
export const ADOPTIONS: readonly Adoption[] = ["none", "istio"];

/** Of namespaces and pods. Values that mean something else (sidecars, a later mode) are not ours to follow. */
export const ISTIO_MODE = "istio.io/dataplane-mode";
export const ISTIO_MODES: Readonly<Record<string, string>> = { ambient: "enabled", none: "disabled" };

/** Marks that another mesh left on a pod: annotation or label, and the mesh's name. */
export const FOREIGN_MARKS: readonly (readonly [string, string])[] = [
  ["sidecar.istio.io/status", "Istio sidecar"],
  ["ambient.istio.io/redirection", "Istio ambient"],
  ["linkerd.io/proxy-version", "Linkerd"],
  ["kuma.io/sidecar-injected", "Kuma"],
  ["consul.hashicorp.com/connect-inject-status", "Consul"],
];

/** The cluster must be able to heal itself, and the mesh to start, without the mesh. */
const NEVER: readonly string[] = [product.controlPlaneNamespace, "kube-system"];

/** Until when an operator took the namespace out of the mesh, in milliseconds; null when nobody did or the annotation is no time. */
export function bypassUntil(namespace: Namespace | undefined): number | null {
  const value = namespace?.metadata.annotations[annotations.bypassUntil];
  const time = value === undefined ? Number.NaN : Date.parse(value);
  return Number.isNaN(time) ? null : time;
}

type Wish = { readonly value: string; readonly label: string };

/** What an object asks for by its labels: by ours first. Null when by none. */
export function wishOf({ labels: written }: Pick<ObjectMeta, "labels">, adopt: Adoption): Wish | null {
  const own = written[labels.mesh];
  if (own !== undefined) return { value: own, label: `${labels.mesh}=${own}` };
  const theirs = adopt === "istio" ? written[ISTIO_MODE] : undefined;
  const value = theirs === undefined ? undefined : ISTIO_MODES[theirs];
  return value === undefined ? null : { value, label: `${ISTIO_MODE}=${theirs}` };
}

/** `namespace` is undefined while the pod's Namespace object is not known: then only the pod's own label enrols. */
export function enrolment(
  namespace: Namespace | undefined,
  pod: Pod,
  { adopt = "none", now = Date.now() }: { readonly adopt?: Adoption; readonly now?: number } = {},
): Enrolment {
  const own = wishOf(pod.metadata, adopt);
  const inherited = namespace === undefined ? null : wishOf(namespace.metadata, adopt);
  if (own !== null && !isSwitch(own.value)) return misread("pod", own.value);
  if (own?.value === "disabled") return out(`the pod is labelled ${own.label}`);
  if (own === null && inherited !== null && !isSwitch(inherited.value)) return misread("namespace", inherited.value);
  const decided = own ?? (inherited?.value === "enabled" ? inherited : null);
  if (decided === null) return out(unwanted(namespace, pod, adopt));
  if (NEVER.includes(pod.metadata.namespace)) return out(`pods of ${pod.metadata.namespace} are never in the mesh`);
  const bypass = bypassUntil(namespace);
  if (bypass !== null && bypass > now) return out(`the namespace is bypassed until ${new Date(bypass).toISOString()}`);
  // It speaks HBONE itself, and must be reached also while nobody's labels say so.
  if (gatewayOf(pod, adopt) !== null) return out("the pod is a waypoint");
  if (pod.phase === "Succeeded" || pod.phase === "Failed") return out(`the pod is over (${pod.phase})`);
  if (pod.hostNetwork) return out("the pod uses the host's network", "E_CAPTURE_HOST_NETWORK");
  const foreign = FOREIGN_MARKS.find(([mark]) => Object.hasOwn(pod.metadata.annotations, mark));
  if (foreign !== undefined) return out(`the pod belongs to ${foreign[1]} (annotation ${foreign[0]})`, "E_CAPTURE_FOREIGN_MESH");
  return { enrolled: true, reason: `the ${own === null ? "namespace" : "pod"} is labelled ${decided.label}`, code: null };
}

/** Who comes from another mesh reads why its label does nothing. */
function unwanted(namespace: Namespace | undefined, pod: Pod, adopt: Adoption): string {
  const istios = adopt === "none" && [pod.metadata, namespace?.metadata].some((meta) => meta?.labels[ISTIO_MODE] === "ambient");
  const none = `neither the pod nor its namespace is labelled ${labels.mesh}=enabled`;
  return istios ? `${none}; ${ISTIO_MODE}=ambient is Istio's and is followed with --adopt=istio only` : none;
}

const isSwitch = (value: string): boolean => value === "enabled" || value === "disabled";

const out = (reason: string, code: ErrorCode | null = null): Enrolment => ({ enrolled: false, reason, code });

/** Guessing could capture a pod that must not be: a value that is neither word enrols nothing and is reported. */
const misread = (whose: string, value: string): Enrolment =>
  out(`label ${labels.mesh} of the ${whose} is ${JSON.stringify(value)}; it must be enabled or disabled`, "E_SOURCE_INVALID");
