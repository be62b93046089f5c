// Which pods are in the mesh: the one answer for control (which tunnels to offer) and for daemons (which pods to capture).
import { annotations, type ErrorCode, labels, product } from "#contract/tables.ts";
import type { Namespace, Pod } from "./objects.ts";

export type Enrolment = {
  readonly enrolled: boolean;
  /** For people: which label decided, or what stands against it. */
  readonly reason: string;
  /** Set when labels ask for the mesh and the pod cannot be in it, or when a label cannot be understood. */
  readonly code: ErrorCode | null;
};

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

/** `namespace` is undefined while the pod's Namespace object is not known: then only the pod's own label enrols. */
export function enrolment(namespace: Namespace | undefined, pod: Pod, now = Date.now()): Enrolment {
  const own = pod.metadata.labels[labels.mesh];
  const inherited = namespace?.metadata.labels[labels.mesh];
  if (own !== undefined && !isSwitch(own)) return misread("pod", own);
  if (own === "disabled") return out(`the pod is labelled ${labels.mesh}=disabled`);
  if (own === undefined && inherited !== undefined && !isSwitch(inherited)) return misread("namespace", inherited);
  const wanted = own === "enabled" || inherited === "enabled";
  if (!wanted) return out(`neither the pod nor its namespace is labelled ${labels.mesh}=enabled`);
  if (NEVER.includes(pod.metadata.namespace)) return out(`pods of ${pod.metadata.namespace} are never in the mesh`);
  const bypass = bypassUntil(namespace);
  if (bypass !== null && bypass > now) return out(`the namespace is bypassed until ${new Date(bypass).toISOString()}`);
  if (pod.phase === "Succeeded" || pod.phase === "Failed") return out(`the pod is over (${pod.phase})`);
  if (pod.hostNetwork) return out("the pod uses the host's network", "E_CAPTURE_HOST_NETWORK");
  const foreign = FOREIGN_MARKS.find(([mark]) => Object.hasOwn(pod.metadata.annotations, mark));
  if (foreign !== undefined) return out(`the pod belongs to ${foreign[1]} (annotation ${foreign[0]})`, "E_CAPTURE_FOREIGN_MESH");
  return { enrolled: true, reason: `the ${own === "enabled" ? "pod" : "namespace"} is labelled ${labels.mesh}=enabled`, code: null };
}

const isSwitch = (value: string): boolean => value === "enabled" || value === "disabled";

const out = (reason: string, code: ErrorCode | null = null): Enrolment => ({ enrolled: false, reason, code });

/** Guessing could capture a pod that must not be: a value that is neither word enrols nothing and is reported. */
const misread = (whose: string, value: string): Enrolment =>
  out(`label ${labels.mesh} of the ${whose} is ${JSON.stringify(value)}; it must be enabled or disabled`, "E_SOURCE_INVALID");
