// Who may call what at one service, as its waypoint enforces it: the policies that apply there in one message. What cannot be compiled denies, by name.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Access, AccessSchema, Action, type PolicySchema, type RuleSchema } from "#contract/gen/authorization_pb.ts";
import { compareAge } from "#mesh/age.ts";
import type { AuthorizationPolicy, PolicyRule, RequestAuthentication } from "#mesh/authorization.ts";
import type { ExtensionProvider } from "#mesh/mesh-config.ts";
import { keyOf } from "#mesh/objects.ts";
import { conditionMatch, operationMatch, sourceMatch } from "./access-match.ts";
import type { Inexpressible } from "./match.ts";
import { compileProvider, type KnownServices, type WireProvider } from "./provider.ts";
import type { ObjectFault } from "./resource.ts";
import { missingKeys, tokenRules } from "./token-rule.ts";

type WirePolicy = MessageInitShape<typeof PolicySchema>;
type WireRule = MessageInitShape<typeof RuleSchema>;

/** What compiling may ask of the mesh. */
export type Known = KnownServices & { provider(name: string): ExtensionProvider | undefined };

export type Applicable = {
  readonly policies: readonly AuthorizationPolicy[];
  readonly authentications: readonly RequestAuthentication[];
};

export function compileAccess(service: string, { policies, authentications }: Applicable, known: Known): Access {
  const tokens = [...authentications].sort(compareAge);
  const providers = new Map<string, WireProvider>();
  const compiled = [...policies].sort(compareAge).map((policy) => compilePolicy(policy, known, providers));
  return create(AccessSchema, {
    service,
    tokens: tokens.flatMap(tokenRules),
    policies: [...tokens.flatMap(brokenTokens), ...compiled],
    providers: [...providers.values()].sort((a, b) => ((a.name ?? "") < (b.name ?? "") ? -1 : 1)),
  });
}

/** In place of one that is larger than its reader would take. */
export const closedAccess = (service: string, invalid: string): Access =>
  create(AccessSchema, { service, policies: [{ name: service, action: Action.DENY, invalid }] });

const nameOf = ({ metadata }: AuthorizationPolicy | RequestAuthentication): string => `${metadata.namespace}/${metadata.name}`;

/** Tokens that ought to be verified, and nobody knows how. */
const brokenTokens = (one: RequestAuthentication): WirePolicy[] =>
  one.unenforceable.length === 0
    ? []
    : [{ name: nameOf(one), action: Action.DENY, invalid: `RequestAuthentication: ${one.unenforceable.join(", ")} cannot be read` }];

/** AUDIT is what a DENY would do, told and not done. */
const ACTIONS = { ALLOW: Action.ALLOW, DENY: Action.DENY, AUDIT: Action.DENY, CUSTOM: Action.CUSTOM } as const;

function compilePolicy(policy: AuthorizationPolicy, known: Known, providers: Map<string, WireProvider>): WirePolicy {
  const { rules, wrong } = rulesOf(policy);
  const provider = policy.action === "CUSTOM" ? providerOf(policy, known) : null;
  const closed = [...wrong.map(({ field, reason }) => `${field}: ${reason}`), ...(typeof provider === "string" ? [provider] : [])];
  if (provider !== null && typeof provider !== "string") providers.set(policy.provider, provider);
  return {
    name: nameOf(policy),
    action: ACTIONS[policy.action],
    dryRun: policy.dryRun || policy.action === "AUDIT",
    ...(closed.length > 0
      ? { invalid: closed.join("; ").slice(0, MOST_REASON_CHARACTERS) }
      : { rules, provider: provider === null ? "" : policy.provider }),
  };
}

/** For a log line. */
const MOST_REASON_CHARACTERS = 512;

function providerOf({ provider }: AuthorizationPolicy, known: Known): WireProvider | string {
  const found = known.provider(provider);
  if (found === undefined) return `spec.provider: nobody is named ${JSON.stringify(provider)} among the mesh's extensionProviders`;
  const compiled = compileProvider(found, known);
  return typeof compiled === "string" ? `spec.provider: ${provider}: ${compiled}` : compiled;
}

function rulesOf(policy: AuthorizationPolicy): { readonly rules: WireRule[]; readonly wrong: Inexpressible } {
  const wrong: Inexpressible = [];
  const closing = policy.unenforceable.filter((path) => policy.action !== "ALLOW" || !path.startsWith("spec.rules["));
  for (const field of closing) wrong.push({ field, reason: "cannot be enforced" });
  const rules = policy.rules.flatMap((rule, i) => {
    const field = `spec.rules[${i}]`;
    // What remains of such a rule would allow more than was written.
    if (policy.unenforceable.some((path) => path.startsWith(`${field}.`))) return [];
    return [ruleOf(rule, field, policy.metadata.namespace, wrong)];
  });
  return { rules, wrong };
}

function ruleOf({ from, to, when, ...rest }: PolicyRule, field: string, namespace: string, wrong: Inexpressible): WireRule {
  rest satisfies Record<string, never>;
  const clauses = [
    from.map((source, i) => sourceMatch(source, `${field}.from[${i}].source`, namespace, wrong)),
    to.map((operation, i) => operationMatch(operation, `${field}.to[${i}].operation`, wrong)),
    ...when.map((condition, i) => [conditionMatch(condition, `${field}.when[${i}]`, namespace, wrong)]),
  ];
  return { clauses: clauses.filter((matches) => matches.length > 0).map((matches) => ({ matches })) };
}

/** What of a policy is in force in another way than it was written, wherever it is attached. */
export function policyFaults(policy: AuthorizationPolicy, known: Known): ObjectFault[] {
  const fault = (field: string, reason: string): ObjectFault => ({ key: keyOf(policy), code: "E_POLICY_INVALID", field, reason });
  const { wrong } = rulesOf(policy);
  const provider = policy.action === "CUSTOM" ? providerOf(policy, known) : null;
  const everything = "every request for what the policy targets is denied";
  return [
    ...wrong.map(({ field, reason }) => fault(field, `${reason}; ${everything}`)),
    ...(typeof provider === "string" ? [fault("spec.provider", `${provider.replace(/^spec\.provider: /, "")}; ${everything}`)] : []),
    ...(policy.action === "ALLOW" ? policy.unenforceable : [])
      .filter((path) => path.startsWith("spec.rules["))
      .map((path) => fault(path, "cannot be enforced; the rule is not in force, so it allows nobody")),
    ...(policy.action === "DENY" && policy.rules.length === 0 && policy.unenforceable.length === 0
      ? [fault("spec.rules", "a DENY without rules denies nobody")]
      : []),
  ];
}

export function tokenFaults(one: RequestAuthentication): ObjectFault[] {
  const fault = (field: string, reason: string): ObjectFault => ({ key: keyOf(one), code: "E_POLICY_INVALID", field, reason });
  return [
    ...one.unenforceable.map((field) => fault(field, "cannot be read; every request for what it targets is denied")),
    ...missingKeys(one).map((reason) => fault("spec.jwtRules", `${reason}; its tokens are refused`)),
  ];
}
