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

const deny = (name: string, namespace: string, match: MessageInitShape<typeof MatchSchema>, dryRun = false): Authorization =>
  create(AuthorizationSchema, {
    name,
    namespace,
    scope: Scope.WORKLOAD_SELECTOR,
    action: Action.DENY,
    rules: [{ clauses: [{ matches: [match] }] }],
    dryRun,
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

const modeOf = (governing: Governing, rootNamespace: string): Decider["mode"] => deciderOf(governing, rootNamespace)?.mode ?? "PERMISSIVE";

type Decider = { readonly peer: PeerAuthentication; readonly mode: Exclude<MutualTlsMode, "UNSET"> };

function deciderOf(governing: Governing, rootNamespace: string): Decider | undefined {
  for (const peer of governing) {
    if (peer === undefined) continue;
    const mode = isHonoured(peer, rootNamespace) ? peer.mode : "STRICT";
    if (mode !== "UNSET") return { peer, mode };
  }
  return undefined;
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
  return deny(`${CONVERTED_PREFIX}${peer.metadata.name}`, peer.metadata.namespace, { ...PLAINTEXT, ...match }, peer.dryRun);
}

/** What a PeerAuthentication that is only tried would refuse; null when nothing. `tried`: what would govern, were it enforced. */
export function convertTried(peer: PeerAuthentication, tried: Governing, rootNamespace: string): Authorization | null {
  const ports = tried[0] === peer ? convert(tried, rootNamespace) : null;
  if (ports !== null) return ports;
  const [, ofNamespace, ofMesh] = tried;
  const strict = modeOf([peer, ofNamespace, ofMesh], rootNamespace) === "STRICT";
  return strict ? deny(`${CONVERTED_PREFIX}${peer.metadata.name}`, peer.metadata.namespace, PLAINTEXT, true) : null;
}

/** Name of the policy that tells what a pod would refuse, null when nothing that is only tried would govern it. */
export function triedPolicyName(tried: Governing, rootNamespace: string): string | null {
  const [workload] = tried;
  const decider = deciderOf(tried, rootNamespace);
  // Ports that are said anew, or the mode for all of them.
  const peer = workload?.dryRun === true ? workload : decider?.peer;
  if (peer?.dryRun !== true || convertTried(peer, tried, rootNamespace) === null) return null;
  return convertedName(peer.metadata.namespace, peer.metadata.name);
}

/** Name of the policy that a governed pod carries, null when plaintext is let in. */
export function peerPolicyName(governing: Governing, rootNamespace: string): string | null {
  const [workload] = governing;
  if (workload !== undefined && convert(governing, rootNamespace) !== null)
    return convertedName(workload.metadata.namespace, workload.metadata.name);
  return modeOf(governing, rootNamespace) === "STRICT" ? `${rootNamespace}/${STATIC_STRICT}` : null;
}
