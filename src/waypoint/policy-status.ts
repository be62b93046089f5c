// The status of a policy of ours at each of its targets (GEP-713): whether it is in force there, and if not, what its author has to do.
import { kubernetes } from "#contract/tables.ts";
import type { TargetRef } from "#mesh/authorization.ts";
import { keyOf } from "#mesh/objects.ts";
import type { BackendPolicy, RequestPolicy } from "#mesh/traffic.ts";
import type { Condition, PolicyStatus } from "./status.ts";

type Policy = BackendPolicy | RequestPolicy;

/** What is known of one target. */
export type TargetFacts =
  | { readonly kind: "missing"; readonly message: string }
  | { readonly kind: "idle"; readonly message: string }
  | { readonly kind: "beaten"; readonly by: Policy }
  /** Where it is in force, or will be. */
  | { readonly kind: "held"; readonly message: string };

const MESSAGE_CHARACTERS = 2048;

export function policyStatus(policy: Policy, factsOf: (target: TargetRef) => TargetFacts): PolicyStatus {
  const { metadata, generation, targets } = policy;
  return {
    key: keyOf(policy),
    ancestors: targets.map((target) => {
      const { group, kind, name, sectionName } = target;
      const accepted = outcome(policy, factsOf(target));
      return {
        ancestorRef: { group, kind, namespace: metadata.namespace, name, ...(sectionName === "" ? {} : { sectionName }) },
        controllerName: kubernetes.waypointController,
        conditions: [{ type: "Accepted", ...accepted, observedGeneration: generation }],
      };
    }),
  };
}

function outcome({ unsupported, metadata }: Policy, facts: TargetFacts): Pick<Condition, "status" | "reason" | "message"> {
  const no = (reason: string, message: string) => ({ status: "False" as const, reason, message: message.slice(0, MESSAGE_CHARACTERS) });
  if (unsupported.length > 0)
    return no("Invalid", `${unsupported.map(({ field, reason }) => `${field}: ${reason}`).join("; ")}; nothing of the policy is in force`);
  if (facts.kind === "missing") return no("TargetNotFound", facts.message);
  if (facts.kind === "idle") return no("NoWaypoint", facts.message);
  if (facts.kind === "beaten") {
    const { namespace, name, creationTimestamp } = facts.by.metadata;
    const first = creationTimestamp === metadata.creationTimestamp ? "as old, and comes first by name" : "older";
    return no("Conflicted", `${facts.by.kind} ${namespace}/${name} is attached to the same target and ${first}`);
  }
  return { status: "True", reason: "Accepted", message: facts.message };
}
