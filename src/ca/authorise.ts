// Who may have which certificate: a node, for an identity that one of its own live pods has; a waypoint, for its own. Pure.
import type { ErrorCode } from "#contract/tables.ts";
import { type Adoption, enrolment } from "#mesh/enrolment.ts";
import { type Identity, parseIdentity } from "#mesh/identity.ts";
import type { Namespace, Node, Pod } from "#mesh/objects.ts";

export type CertificateClaim = {
  /** The calling node, proven by its token. */
  readonly node: string;
  /** The identity asked for, as the caller wrote it. */
  readonly identity: string;
  /** The pod that needs it; empty from callers that do not say (Istio's own node proxy): then any pod that may have it. */
  readonly podUid: string;
};

/** What the source says now; a token or an older answer counts for nothing against it. */
export type ClusterView = {
  readonly trustDomain: string;
  readonly adopt: Adoption;
  node(name: string): Node | undefined;
  namespace(name: string): Namespace | undefined;
  pod(uid: string): Pod | undefined;
  podsOn(node: string): Iterable<Pod>;
  /** The pod of that uid when it is a live waypoint's. */
  waypoint(uid: string): Pod | undefined;
};

export type Verdict =
  | { readonly identity: Identity; readonly pod: Pod }
  /** `reason` is for the log; callers are not told which part of their claim was wrong. */
  | { readonly code: ErrorCode; readonly reason: string };

export function authorise(claim: CertificateClaim, view: ClusterView): Verdict {
  const identity = parseIdentity(claim.identity);
  if (typeof identity === "string")
    return { code: "E_IDENTITY_MALFORMED", reason: `${quote(claim.identity)} is not an identity: wrong ${identity}` };
  if (identity.trustDomain !== view.trustDomain) return refuse(claim, `its trust domain is not ${view.trustDomain}`);
  if (view.node(claim.node) === undefined) return refuse(claim, "the node does not exist any more");
  if (claim.podUid === "") {
    for (const pod of view.podsOn(claim.node)) if (obstacle(claim, identity, pod, view) === null) return { identity, pod };
    return refuse(claim, "no live pod of the node has it");
  }
  const pod = view.pod(claim.podUid);
  if (pod === undefined) return refuse(claim, `no pod has uid ${quote(claim.podUid)}: it was deleted or replaced, or is not known yet`);
  const reason = obstacle(claim, identity, pod, view);
  return reason === null ? { identity, pod } : refuse(claim, `pod ${pod.metadata.namespace}/${pod.metadata.name} ${reason}`);
}

/** `waypoint` is the uid of the calling pod, proven by its token. */
export function authoriseWaypoint(claim: Omit<CertificateClaim, "node"> & { readonly waypoint: string }, view: ClusterView): Verdict {
  const identity = parseIdentity(claim.identity);
  const no = (why: string): Verdict => ({
    code: "E_IDENTITY_REFUSED",
    reason: `the waypoint's pod ${quote(claim.waypoint)} may not have ${quote(claim.identity)}: ${why}`,
  });
  if (typeof identity === "string")
    return { code: "E_IDENTITY_MALFORMED", reason: `${quote(claim.identity)} is not an identity: wrong ${identity}` };
  if (identity.trustDomain !== view.trustDomain) return no(`its trust domain is not ${view.trustDomain}`);
  if (claim.podUid !== claim.waypoint) return no(`it asks for pod ${quote(claim.podUid)}`);
  const pod = view.waypoint(claim.waypoint);
  if (pod === undefined) return no("no live pod of a waypoint has that uid");
  if (pod.metadata.namespace !== identity.namespace) return no("it is in another namespace");
  if (pod.serviceAccountName !== identity.serviceAccount) return no(`it has service account ${quote(pod.serviceAccountName)}`);
  return { identity, pod };
}

/** Why this pod does not entitle the node to the identity; null when it does. */
function obstacle({ node }: CertificateClaim, identity: Identity, pod: Pod, view: ClusterView): string | null {
  if (pod.nodeName !== node) return `runs on node ${quote(pod.nodeName)}`;
  if (pod.metadata.namespace !== identity.namespace) return "is in another namespace";
  if (pod.serviceAccountName !== identity.serviceAccount) return `has service account ${quote(pod.serviceAccountName)}`;
  if (pod.phase === "Succeeded" || pod.phase === "Failed") return `is over (${pod.phase})`;
  const { enrolled, reason } = enrolment(view.namespace(pod.metadata.namespace), pod, { adopt: view.adopt });
  return enrolled ? null : `is not in the mesh: ${reason}`;
}

const refuse = ({ node, identity }: CertificateClaim, why: string): Verdict => ({
  code: "E_IDENTITY_REFUSED",
  reason: `node ${node} may not have ${quote(identity)}: ${why}`,
});

/** Text from a caller, harmless in a log line and bounded. */
const quote = (text: string): string => JSON.stringify(text.slice(0, 512));
