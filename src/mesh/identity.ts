// SPIFFE identities of workloads, parsed strictly: what is not exactly one of ours is refused, never repaired. proto/vectors/spiffe.json
// pins the strictness for this file and for native/contract.
export type Identity = { readonly trustDomain: string; readonly namespace: string; readonly serviceAccount: string };

export type IdentityFault = "scheme" | "trust_domain" | "path" | "namespace" | "service_account";

const SCHEME = "spiffe://";
const TRUST_DOMAIN = /^[a-z0-9._-]{1,255}$/;
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** DNS-1123 label: 1 to 63 of a-z, 0-9 and "-" inside. */
export const isLabel = (name: string): boolean => LABEL.test(name);

/** DNS-1123 subdomain: labels joined by dots, at most 253 long. */
export const isSubdomain = (name: string): boolean => name.length <= 253 && name.split(".").every(isLabel);

/** The identity that a URI SAN names, or which part is wrong. */
export function parseIdentity(uri: string): Identity | IdentityFault {
  if (!uri.startsWith(SCHEME)) return "scheme";
  const [trustDomain, ...path] = uri.slice(SCHEME.length).split("/");
  if (path.length === 0) return "path";
  if (trustDomain === undefined || !TRUST_DOMAIN.test(trustDomain)) return "trust_domain";
  const [ns, namespace, sa, serviceAccount] = path;
  if (path.length !== 4 || ns !== "ns" || sa !== "sa" || namespace === undefined || serviceAccount === undefined) return "path";
  if (!isLabel(namespace)) return "namespace";
  if (!isSubdomain(serviceAccount)) return "service_account";
  return { trustDomain, namespace, serviceAccount };
}

export const formatIdentity = (id: Identity): string => `${SCHEME}${id.trustDomain}/ns/${id.namespace}/sa/${id.serviceAccount}`;
