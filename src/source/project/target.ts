// targetRefs of policies: what they are attached to, as Istio and the Gateway API (GEP-713) write it.
import { z } from "zod";
import type { TargetRef } from "#mesh/authorization.ts";
import { GATEWAY_GROUP } from "#mesh/route.ts";
import { invalid, type Problem, unsupported } from "./problem.ts";

/** Of Istio's schema. */
const MOST_TARGETS = 16;

const target = z.strictObject({
  group: z.string().max(253).default(""),
  kind: z.string().min(1).max(63),
  name: z.string().min(1).max(253),
  namespace: z.string().optional(),
});
const targets = z.array(target).min(1, "must not be empty: leave the field out instead").max(MOST_TARGETS);

/** Of Istio's policies. */
export const targetFields = { targetRef: target.optional(), targetRefs: targets.optional() };

/** What a waypoint of ours can hold a policy for, by group. */
const KINDS: Readonly<Record<string, readonly string[]>> = {
  "": ["Service"],
  core: ["Service"],
  [GATEWAY_GROUP]: ["Gateway", "GatewayClass"],
  "networking.istio.io": ["ServiceEntry"],
};

type Written = { readonly targetRef?: unknown; readonly targetRefs?: unknown; readonly selector?: unknown };

/** Also of a document that is wrong elsewhere: what can be read of its targets is what stands closed in its name. */
export function readTargets(spec: Written, namespace: string): { readonly targets: readonly TargetRef[]; readonly problems: Problem[] } {
  const problems: Problem[] = [];
  const single = target.safeParse(spec.targetRef).data;
  const several = Array.isArray(spec.targetRefs) ? spec.targetRefs.map((one) => target.safeParse(one).data) : [];
  if (spec.targetRef !== undefined && spec.targetRefs !== undefined)
    problems.push(invalid(["spec", "targetRef"], "either targetRef or targetRefs, not both"));
  if ((spec.targetRef !== undefined || spec.targetRefs !== undefined) && spec.selector !== undefined)
    problems.push(invalid(["spec", "selector"], "either a selector or targets, not both"));
  const named = [
    ...(single === undefined ? [] : [{ at: ["spec", "targetRef"], one: single }]),
    ...several.flatMap((one, i) => (one === undefined ? [] : [{ at: ["spec", "targetRefs", i], one }])),
  ];
  for (const { at, one } of named) {
    if (!(KINDS[one.group] ?? []).includes(one.kind))
      problems.push(
        unsupported([...at, "kind"], `${one.kind} of group ${JSON.stringify(one.group)} has no waypoint that could enforce it`),
      );
    if (one.namespace !== undefined && one.namespace !== namespace)
      problems.push(unsupported([...at, "namespace"], "a policy governs targets of its own namespace only"));
  }
  const readable = named.map(({ one }) => ({
    group: one.group === "core" ? "" : one.group,
    kind: one.kind,
    name: one.name,
    sectionName: "",
  }));
  return { targets: readable, problems };
}
