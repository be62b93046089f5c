// Whether a pod lets plaintext in: PeerAuthentication by precedence, turned into the DENY policies that node proxies understand.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Action, type Authorization, AuthorizationSchema, type MatchSchema, Scope } from "#contract/gen/istio/security_pb.ts";
import { compareAge } from "#mesh/age.ts";
import { keyOf, type MutualTlsMode, type PeerAuthentication } from "#mesh/objects.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import type { ObjectFault } from "./resource.ts";

const STATIC_STRICT = "istio_converted_static_strict";
const CONVERTED_PREFIX = "converted_peer_authentication_";

/** The PeerAuthentications that govern one pod, the strongest first; undefined where there is none. */
export type Governing = readonly [
  workload: PeerAuthentication | undefined,
  namespace: PeerAuthentication | undefined,
  mesh: PeerAuthentication | undefined,
];

/** "No identity" is plaintext: whoever came by HBONE has one. */
const PLAINTEXT: MessageInitShape<typeof MatchSchema> = { notPrincipals: [{ matchType: { case: "presence", value: {} } }] };

const deny = (name: string, namespace: string, match: MessageInitShape<typeof MatchSchema>): Authorization =>
  create(AuthorizationSchema, {
    name,
    namespace,
    scope: Scope.WORKLOAD_SELECTOR,
    action: Action.DENY,
    rules: [{ clauses: [{ matches: [match] }] }],
  });

/** Always there, so that a pod that becomes STRICT never waits for it. */
export const staticStrict = (rootNamespace: string): Authorization => deny(STATIC_STRICT, rootNamespace, PLAINTEXT);

export const convertedName = (namespace: string, name: string): string => `${namespace}/${CONVERTED_PREFIX}${name}`;

/** Of several at one level the oldest is in force; among those of one age, or of unknown age, the first by name. */
export const oldest = (candidates: Iterable<PeerAuthentication>): PeerAuthentication | undefined => [...candidates].sort(compareAge)[0];

/** What cannot be honoured counts as STRICT for its whole scope. */
export function peerFaults(peer: PeerAuthentication, rootNamespace: string): ObjectFault[] {
  const fault = (field: string, reason: string): ObjectFault => ({
    key: keyOf(peer),
    code: "E_POLICY_INVALID",
    field,
    reason: `${reason}; it counts as STRICT for what it selects`,
  });
  if (isEmptySelector(peer.selector))
    return Object.keys(peer.portModes).length === 0 ? [] : [fault("spec.portLevelMtls", "ports need a selector")];
  return peer.metadata.namespace === rootNamespace
    ? [fault("spec.selector", "the root namespace governs the mesh and takes no selector")]
    : [];
}

const isHonoured = (peer: PeerAuthentication, rootNamespace: string): boolean => peerFaults(peer, rootNamespace).length === 0;

function modeOf(governing: Governing, rootNamespace: string): Exclude<MutualTlsMode, "UNSET"> {
  for (const peer of governing) {
    if (peer === undefined) continue;
    const mode = isHonoured(peer, rootNamespace) ? peer.mode : "STRICT";
    if (mode !== "UNSET") return mode;
  }
  return "PERMISSIVE";
}

/** The policy of a PeerAuthentication whose ports differ from its mode; null when none does. */
export function convert(governing: Governing, rootNamespace: string): Authorization | null {
  const [peer] = governing;
  if (peer === undefined || !isHonoured(peer, rootNamespace)) return null;
  const strict = modeOf(governing, rootNamespace) === "STRICT";
  const ports = Object.entries(peer.portModes)
    .filter(([, mode]) => mode !== "UNSET" && (mode === "STRICT") !== strict)
    .map(([port]) => Number(port))
    .sort((a, b) => a - b);
  if (ports.length === 0) return null;
  const match = strict ? { notDestinationPorts: ports } : { destinationPorts: ports };
  return deny(`${CONVERTED_PREFIX}${peer.metadata.name}`, peer.metadata.namespace, { ...PLAINTEXT, ...match });
}

/** Name of the policy that a governed pod carries, null when plaintext is let in. */
export function peerPolicyName(governing: Governing, rootNamespace: string): string | null {
  const [workload] = governing;
  if (workload !== undefined && convert(governing, rootNamespace) !== null)
    return convertedName(workload.metadata.namespace, workload.metadata.name);
  return modeOf(governing, rootNamespace) === "STRICT" ? `${rootNamespace}/${STATIC_STRICT}` : null;
}
