// An AuthorizationPolicy as the data plane evaluates it. Where that would be less than what was written, it denies and says so.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Action, type Authorization, AuthorizationSchema, type RuleSchema, Scope } from "#contract/gen/istio/security_pb.ts";
import type { AuthorizationPolicy, PolicyRule } from "#mesh/authorization.ts";
import { keyOf } from "#mesh/objects.ts";
import { isEmptySelector } from "#mesh/selector.ts";
import { conditionMatch, type Inexpressible, operationMatch, sourceMatch } from "./match.ts";
import type { ObjectFault } from "./resource.ts";

type Rule = MessageInitShape<typeof RuleSchema>;

/** A rule without clauses matches every connection. */
const EVERYTHING: readonly Rule[] = [{ clauses: [] }];

export type CompiledPolicy = { readonly authorization: Authorization; readonly faults: readonly ObjectFault[] };

export function compileAuthorization(policy: AuthorizationPolicy, rootNamespace: string): CompiledPolicy {
  const wrong: Inexpressible = [];
  const kept = policy.rules.map((rule, i) => ({ rule, field: `spec.rules[${i}]` })).filter(({ field }) => enforceable(policy, field));
  const rules = kept.map(({ rule, field }) => compileRule(rule, field, policy.metadata.namespace, wrong));
  const closed = wrong.length > 0 || policy.unenforceable.some((path) => policy.action === "DENY" || !path.startsWith("spec.rules["));
  return {
    authorization: create(AuthorizationSchema, {
      name: policy.metadata.name,
      namespace: policy.metadata.namespace,
      scope: scopeOf(policy, rootNamespace),
      action: closed || policy.action === "DENY" ? Action.DENY : Action.ALLOW,
      rules: closed ? [...EVERYTHING] : rules,
      dryRun: policy.dryRun,
    }),
    faults: faultsOf(policy, wrong),
  };
}

const scopeOf = (policy: AuthorizationPolicy, rootNamespace: string): Scope => {
  if (!isEmptySelector(policy.selector)) return Scope.WORKLOAD_SELECTOR;
  return policy.metadata.namespace === rootNamespace ? Scope.GLOBAL : Scope.NAMESPACE;
};

/** False for a rule of which a part was left out: what remains of it would allow more than was written. */
const enforceable = (policy: AuthorizationPolicy, field: string): boolean =>
  !policy.unenforceable.some((path) => path.startsWith(`${field}.`));

/** Clauses are ANDed, matches ORed: one clause for `from`, one for `to`, one for each condition. */
function compileRule({ from, to, when, ...rest }: PolicyRule, field: string, namespace: string, wrong: Inexpressible): Rule {
  rest satisfies Record<string, never>;
  const clauses = [
    from.map((source, i) => sourceMatch(source, `${field}.from[${i}].source`, namespace, wrong)),
    to.map((operation, i) => operationMatch(operation, `${field}.to[${i}].operation`, wrong)),
    ...when.map((condition, i) => [conditionMatch(condition, `${field}.when[${i}]`, wrong)]),
  ];
  return { clauses: clauses.filter((matches) => matches.length > 0).map((matches) => ({ matches })) };
}

function faultsOf(policy: AuthorizationPolicy, wrong: Inexpressible): ObjectFault[] {
  const fault = (field: string, reason: string): ObjectFault => ({ key: keyOf(policy), code: "E_POLICY_INVALID", field, reason });
  const deny = policy.action === "DENY";
  const effect = deny ? "the policy denies all that it selects" : "the rule is not in force, so it allows nobody";
  return [
    ...wrong.map(({ field, reason }) => fault(field, `${reason}; the policy denies all that it selects`)),
    ...policy.unenforceable.map((field) => fault(field, `L4 cannot enforce this; ${effect}`)),
    ...(deny && policy.rules.length === 0 && policy.unenforceable.length === 0
      ? [fault("spec.rules", "a DENY without rules denies nobody")]
      : []),
  ];
}
