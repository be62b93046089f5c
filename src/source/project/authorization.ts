// AuthorizationPolicy documents: every field is enforced, named as unenforceable, or refused. Nothing is skipped.
import { z } from "zod";
import type { AuthorizationPolicy, Condition, Operation, PolicyRule, Source } from "#mesh/objects.ts";
import { labelMap, metadata } from "./fields.ts";
import { formatPath, invalid, type Path, type Problem, unsupported } from "./problem.ts";
import type { Projector } from "./projector.ts";

export const SOURCE_L4 = [
  "principals",
  "notPrincipals",
  "namespaces",
  "notNamespaces",
  "serviceAccounts",
  "notServiceAccounts",
  "ipBlocks",
  "notIpBlocks",
] as const satisfies readonly (keyof Source)[];
export const SOURCE_L7 = [
  "requestPrincipals",
  "notRequestPrincipals",
  "remoteIpBlocks",
  "notRemoteIpBlocks",
  "trustDomains",
  "notTrustDomains",
] as const;
export const OPERATION_L4 = ["ports", "notPorts"] as const satisfies readonly (keyof Operation)[];
export const OPERATION_L7 = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"] as const;
export const CONDITION_L4 = ["source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"] as const;

const DRY_RUN = "istio.io/dry-run";

/** An empty list would be an empty set of values, which API servers and the reference read as "any": refused instead of guessed. */
const values = z.array(z.string().min(1)).min(1, "must not be empty: leave the field out instead");
const lists = <K extends string>(names: readonly K[]): Record<K, z.ZodOptional<typeof values>> =>
  Object.fromEntries(names.map((name) => [name, values.optional()])) as Record<K, z.ZodOptional<typeof values>>;
const filled = <T extends z.ZodType<Record<string, unknown>>>(schema: T): T =>
  schema.refine((object) => Object.keys(object).length > 0, "must not be empty: leave it out to match anything");

const source = filled(z.strictObject(lists([...SOURCE_L4, ...SOURCE_L7])));
const operation = filled(z.strictObject(lists([...OPERATION_L4, ...OPERATION_L7])));
const condition = z
  .strictObject({ key: z.string().min(1), values: values.optional(), notValues: values.optional() })
  .refine((one) => one.values !== undefined || one.notValues !== undefined, "needs values or notValues");
const rule = z.strictObject({
  from: z.array(z.strictObject({ source })).min(1, "must not be empty: leave the field out instead").optional(),
  to: z.array(z.strictObject({ operation })).min(1, "must not be empty: leave the field out instead").optional(),
  when: z.array(condition).min(1, "must not be empty: leave the field out instead").optional(),
});
const selector = z.strictObject({ matchLabels: labelMap.default({}) });
const spec = z.strictObject({
  selector: selector.default({ matchLabels: {} }),
  action: z.enum(["ALLOW", "DENY", "AUDIT", "CUSTOM"]).default("ALLOW"),
  rules: z.array(rule).default([]),
  targetRef: z.unknown().optional(),
  targetRefs: z.unknown().optional(),
  provider: z.unknown().optional(),
});
const document = z.strictObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata,
  spec: spec.prefault({}),
  status: z.unknown().optional(),
});

type Document = z.infer<typeof document>;
type Rule = z.infer<typeof rule>;

export const projectAuthorizationPolicy: Projector<AuthorizationPolicy, Document> = {
  kind: "AuthorizationPolicy",
  scope: "namespace",
  schema: document,
  refusesNull: true,
  project: ({ spec }, meta) => {
    const { action, selector, rules } = spec;
    const dryRun = meta.annotations[DRY_RUN] ?? "false";
    const problems: Problem[] = [];
    if (action === "AUDIT" || action === "CUSTOM") problems.push(unsupported(["spec", "action"], `action ${action} is not supported`));
    for (const field of ["targetRef", "targetRefs", "provider"] as const)
      if (spec[field] !== undefined)
        problems.push(unsupported(["spec", field], "this version has no waypoint or provider that could enforce it"));
    if (dryRun !== "true" && dryRun !== "false") problems.push(invalid(["metadata", "annotations", DRY_RUN], "must be true or false"));
    if (problems.length > 0 || action === "AUDIT" || action === "CUSTOM") return { object: null, problems };
    const object: AuthorizationPolicy = {
      kind: "AuthorizationPolicy",
      metadata: meta,
      action,
      selector: selector.matchLabels,
      rules: rules.map(policyRule),
      unenforceable: rules.flatMap(unenforceable).map(formatPath),
      dryRun: dryRun === "true",
    };
    return { object, problems };
  },
  standIn: (raw, meta, problem) => {
    // These never deny anybody by themselves: AUDIT only logs, and without a waypoint nothing has a targetRef in force.
    const readable = z.object({ spec: z.looseObject({}) }).safeParse(raw).data?.spec ?? {};
    if (readable["action"] === "AUDIT" || "targetRef" in readable || "targetRefs" in readable) return null;
    const chosen = selector.safeParse(readable["selector"] ?? {});
    return {
      kind: "AuthorizationPolicy",
      metadata: meta,
      action: "DENY",
      selector: chosen.success ? chosen.data.matchLabels : {},
      rules: [],
      unenforceable: [formatPath(problem.path) || "spec"],
      dryRun: meta.annotations[DRY_RUN] === "true",
    };
  },
};

const policyRule = ({ from = [], to = [], when = [] }: Rule): PolicyRule => ({
  from: from.map(({ source }) => pick(SOURCE_L4, source)),
  to: to.map(({ operation }) => pick(OPERATION_L4, operation)),
  when: when.filter(isL4).map(({ key, values = [], notValues = [] }): Condition => ({ key, values, notValues })),
});

const isL4 = ({ key }: { readonly key: string }): boolean => (CONDITION_L4 as readonly string[]).includes(key);

const pick = <K extends string>(
  names: readonly K[],
  from: Readonly<Partial<Record<K, string[] | undefined>>>,
): Record<K, readonly string[]> =>
  Object.fromEntries(names.map((name): [K, readonly string[]] => [name, from[name] ?? []])) as Record<K, readonly string[]>;

function unenforceable({ from = [], to = [], when = [] }: Rule, index: number): Path[] {
  const rule = ["spec", "rules", index];
  return [
    ...from.flatMap(({ source }, i) =>
      SOURCE_L7.filter((name) => source[name] !== undefined).map((name) => [...rule, "from", i, "source", name]),
    ),
    ...to.flatMap(({ operation }, i) =>
      OPERATION_L7.filter((name) => operation[name] !== undefined).map((name) => [...rule, "to", i, "operation", name]),
    ),
    ...when.flatMap((one, i) => (isL4(one) ? [] : [[...rule, "when", i, "key"]])),
  ];
}
