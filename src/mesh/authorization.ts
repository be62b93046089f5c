// Who may ask what of whom, as people write it with security.istio.io: AuthorizationPolicy and RequestAuthentication, every field of them.
import type { Labels, ObjectMeta } from "./objects.ts";

/** What a policy is attached to, in its own namespace; of a GatewayClass, of the cluster. */
export type TargetRef = {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  /** A part of the target: a Service's port, a rule of a route. Empty: all of it. */
  readonly sectionName: string;
};

/** Fields are ANDed, the values of one are ORed, and of a `not` list none may match; an empty list says nothing. */
export type Source = {
  readonly principals: readonly string[];
  readonly notPrincipals: readonly string[];
  readonly namespaces: readonly string[];
  readonly notNamespaces: readonly string[];
  readonly serviceAccounts: readonly string[];
  readonly notServiceAccounts: readonly string[];
  readonly ipBlocks: readonly string[];
  readonly notIpBlocks: readonly string[];
  /** The rest only HTTP knows. */
  readonly requestPrincipals: readonly string[];
  readonly notRequestPrincipals: readonly string[];
  readonly remoteIpBlocks: readonly string[];
  readonly notRemoteIpBlocks: readonly string[];
};

export type Operation = {
  readonly ports: readonly string[];
  readonly notPorts: readonly string[];
  /** The rest only HTTP knows. */
  readonly hosts: readonly string[];
  readonly notHosts: readonly string[];
  readonly methods: readonly string[];
  readonly notMethods: readonly string[];
  readonly paths: readonly string[];
  readonly notPaths: readonly string[];
};

export type Condition = { readonly key: string; readonly values: readonly string[]; readonly notValues: readonly string[] };

export type PolicyRule = { readonly from: readonly Source[]; readonly to: readonly Operation[]; readonly when: readonly Condition[] };

export type AuthorizationPolicy = {
  readonly kind: "AuthorizationPolicy";
  readonly metadata: ObjectMeta;
  readonly action: "ALLOW" | "DENY" | "AUDIT" | "CUSTOM";
  /** Of CUSTOM: the name of who is asked. */
  readonly provider: string;
  /** Not empty: it is for the waypoints of these, and no pod's own node evaluates it. */
  readonly targets: readonly TargetRef[];
  /** Without targets. Empty = every pod of the namespace, or of the mesh when the namespace is the root namespace. */
  readonly selector: Labels;
  readonly rules: readonly PolicyRule[];
  /**
   * Paths of fields that cannot be enforced where the policy is, for example "spec.rules[0].to[0].operation.methods" without targets. A DENY
   * with any of them denies its whole target; an ALLOW loses the rules that hold them (both fail closed).
   */
  readonly unenforceable: readonly string[];
  readonly dryRun: boolean;
};

export type JwtRule = {
  readonly issuer: string;
  /** Empty: any. */
  readonly audiences: readonly string[];
  /** Empty: the keys are in `jwks`, or else found through the issuer (OpenID discovery). */
  readonly jwksUri: string;
  /** The keys themselves; empty: they are fetched. */
  readonly jwks: string;
  readonly fromHeaders: readonly { readonly name: string; readonly prefix: string }[];
  readonly fromParams: readonly string[];
  readonly fromCookies: readonly string[];
  readonly forwardOriginalToken: boolean;
  /** Empty: none. */
  readonly outputPayloadToHeader: string;
  readonly outputClaimToHeaders: readonly { readonly header: string; readonly claim: string }[];
  readonly spaceDelimitedClaims: readonly string[];
  /** For fetching the keys. */
  readonly timeoutMilliseconds: number;
};

export type RequestAuthentication = {
  readonly kind: "RequestAuthentication";
  readonly metadata: ObjectMeta;
  readonly targets: readonly TargetRef[];
  /** Without targets it is for sidecars, and nobody here reads tokens by it: its status says so. */
  readonly selector: Labels;
  readonly jwtRules: readonly JwtRule[];
  /** What is wrong with it. Where it is attached, every request is denied then. */
  readonly unenforceable: readonly string[];
  /** By `keysUrlOf` a rule: what was fetched. Filled by control; what is not there was never answered. */
  readonly keys: Readonly<Record<string, FetchedKeys>>;
};

export type FetchedKeys = {
  /** A JSON Web Key Set; empty: there is none to go by. */
  readonly jwks: string;
  /** Why not. */
  readonly missing: string;
};

/** Where the keys of a rule are to be found: its own URL, or by OpenID discovery; empty where the rule holds them. */
export const keysUrlOf = ({ jwks, jwksUri, issuer }: Pick<JwtRule, "jwks" | "jwksUri" | "issuer">): string =>
  jwks !== "" ? "" : jwksUri !== "" ? jwksUri : `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
