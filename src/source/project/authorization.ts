// AuthorizationPolicy documents: every field is enforced, named as unenforceable, or refused. Nothing is skipped.
import { z } from "zod";
import type { AuthorizationPolicy, Condition, Operation, PolicyRule, Source, TargetRef } from "#mesh/authorization.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import { labelMap, metadata } from "./fields.ts";
import { formatPath, invalid, type Path, type Problem, unsupported } from "./problem.ts";
import type { Projector } from "./projector.ts";
import { readTargets, targetFields } from "./target.ts";

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
] as const satisfies readonly (keyof Source)[];
/** Known to the API, enforced by nobody here. */
export const SOURCE_NOWHERE = ["trustDomains", "notTrustDomains"] as const;
export const OPERATION_L4 = ["ports", "notPorts"] as const satisfies readonly (keyof Operation)[];
export const OPERATION_L7 = [
  "hosts",
  "notHosts",
  "methods",
  "notMethods",
  "paths",
  "notPaths",
] as const satisfies readonly (keyof Operation)[];
export const CONDITION_L4 = ["source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"] as const;

/** An empty list would be an empty set of values, which API servers and the reference read as "any": refused instead of guessed. */
const values = z.array(z.string().min(1)).min(1, "must not be empty: leave the field out instead");
const lists = <K extends string>(names: readonly K[]): Record<K, z.ZodOptional<typeof values>> =>
  Object.fromEntries(names.map((name) => [name, values.optional()])) as Record<K, z.ZodOptional<typeof values>>;
const filled = <T extends z.ZodType<Record<string, unknown>>>(schema: T): T =>
  schema.refine((object) => Object.keys(object).length > 0, "must not be empty: leave it out to match anything");

const source = filled(z.strictObject(lists([...SOURCE_L4, ...SOURCE_L7, ...SOURCE_NOWHERE])));
const operation = filled(z.strictObject(lists([...OPERATION_L4, ...OPERATION_L7])));
const condition = z
  .strictObject({ key: z.string().min(1), values: values.optional(), notValues: values.optional() })
  .refine((one) => one.values !== undefined || one.notValues !== undefined, "needs values or notValues");
const rule = z.strictObject({
  from: z.array(z.strictObject({ source })).min(1, "must not be empty: leave the field out instead").optional(),
  to: z.array(z.strictObject({ operation })).min(1, "must not be empty: leave the field out instead").optional(),
  when: z.array(condition).min(1, "must not be empty: leave the field out instead").optional(),
});
export const selector = z.strictObject({ matchLabels: labelMap.default({}) });
const spec = z.strictObject({
  selector: selector.optional(),
  ...targetFields,
  action: z.enum(["ALLOW", "DENY", "AUDIT", "CUSTOM"]).default("ALLOW"),
  provider: z.strictObject({ name: z.string().min(1) }).optional(),
  rules: z.array(rule).default([]),
});
const document = z.strictObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata,
  spec: spec.prefault({}),
  status: z.unknown().optional(),
});

type Document = z.infer<typeof document>;
type Spec = z.infer<typeof spec>;
type Rule = z.infer<typeof rule>;

export const projectAuthorizationPolicy: Projector<AuthorizationPolicy, Document> = {
  kind: "AuthorizationPolicy",
  scope: "namespace",
  schema: document,
  refusesNull: true,
  project: ({ spec }, meta) => {
    const { action, rules, provider } = spec;
    const dryRun = meta.annotations[DRY_RUN] ?? "false";
    const { targets, problems: misplaced } = readTargets(spec, meta.namespace);
    const problems: Problem[] = [...misplaced, ...problemsIn(spec, targets)];
    if (dryRun !== "true" && dryRun !== "false") problems.push(invalid(["metadata", "annotations", DRY_RUN], "must be true or false"));
    if (problems.length > 0) return { object: null, problems };
    const object: AuthorizationPolicy = {
      kind: "AuthorizationPolicy",
      metadata: meta,
      action,
      provider: provider?.name ?? "",
      targets,
      selector: spec.selector?.matchLabels ?? {},
      rules: rules.map(policyRule),
      unenforceable: rules.flatMap((one, i) => unenforceable(one, i, targets.length > 0)).map(formatPath),
      dryRun: dryRun === "true",
    };
    return { object, problems: [] };
  },
  standIn: (raw, meta, problem) => {
    const readable = z.object({ spec: z.looseObject({}) }).safeParse(raw).data?.spec ?? {};
    if (readable["action"] === "AUDIT") return null; // it never denies anybody by itself
    const targets = readTargets(readable, meta.namespace).targets;
    // What it is for cannot be told, and it is for no pod: nothing can be closed in its name.
    if (targets.length === 0 && ("targetRef" in readable || "targetRefs" in readable)) return null;
    const chosen = selector.safeParse(readable["selector"] ?? {});
    return {
      kind: "AuthorizationPolicy",
      metadata: meta,
      action: "DENY",
      provider: "",
      targets,
      selector: chosen.success ? chosen.data.matchLabels : {},
      rules: [],
      unenforceable: [formatPath(problem.path) || "spec"],
      dryRun: meta.annotations[DRY_RUN] === "true",
    };
  },
};

/** What needs HTTP needs a waypoint, and so targets. */
function problemsIn({ action, provider }: Spec, targets: readonly TargetRef[]): Problem[] {
  const problems: Problem[] = [];
  if (targets.length === 0 && (action === "AUDIT" || action === "CUSTOM"))
    problems.push(unsupported(["spec", "action"], `action ${action} needs targetRefs: only a waypoint can do it`));
  if (action === "CUSTOM" && provider === undefined) problems.push(invalid(["spec", "provider"], "CUSTOM needs the name of who is asked"));
  if (action !== "CUSTOM" && provider !== undefined) problems.push(invalid(["spec", "provider"], "is for action CUSTOM only"));
  return problems;
}

const policyRule = ({ from = [], to = [], when = [] }: Rule): PolicyRule => ({
  from: from.map(({ source }) => pick([...SOURCE_L4, ...SOURCE_L7], source)),
  to: to.map(({ operation }) => pick([...OPERATION_L4, ...OPERATION_L7], operation)),
  when: when.map(({ key, values = [], notValues = [] }): Condition => ({ key, values, notValues })),
});

const isL4 = ({ key }: { readonly key: string }): boolean => (CONDITION_L4 as readonly string[]).includes(key);

const pick = <K extends string>(
  names: readonly K[],
  from: Readonly<Partial<Record<K, string[] | undefined>>>,
): Record<K, readonly string[]> =>
  Object.fromEntries(names.map((name): [K, readonly string[]] => [name, from[name] ?? []])) as Record<K, readonly string[]>;

function unenforceable({ from = [], to = [], when = [] }: Rule, index: number, atWaypoint: boolean): Path[] {
  const rule = ["spec", "rules", index];
  const sources = atWaypoint ? SOURCE_NOWHERE : [...SOURCE_L7, ...SOURCE_NOWHERE];
  const operations = atWaypoint ? [] : OPERATION_L7;
  return [
    ...from.flatMap(({ source }, i) =>
      sources.filter((name) => source[name] !== undefined).map((name) => [...rule, "from", i, "source", name]),
    ),
    ...to.flatMap(({ operation }, i) =>
      operations.filter((name) => operation[name] !== undefined).map((name) => [...rule, "to", i, "operation", name]),
    ),
    // What a waypoint knows of conditions is settled where they are compiled.
    ...when.flatMap((one, i) => (atWaypoint || isL4(one) ? [] : [[...rule, "when", i, "key"]])),
  ];
}
