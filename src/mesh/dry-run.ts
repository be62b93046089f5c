// Policies that are only tried: told of and counted, never enforced. By annotation, of the policy or else of its namespace.
import { annotations } from "#contract/tables.ts";
import type { AuthorizationPolicy } from "./authorization.ts";
import type { AnnotationFault } from "./capture.ts";
import type { Namespace } from "./objects.ts";

/** Istio's, on a policy. */
export const DRY_RUN = "istio.io/dry-run";

/** The policy as its namespace has it. An annotation that is neither true nor false lets nobody in: the policy is enforced. */
export function asTried(
  policy: AuthorizationPolicy,
  namespace: Namespace | undefined,
): { readonly policy: AuthorizationPolicy; readonly faults: readonly AnnotationFault[] } {
  const annotation = annotations.dryRun;
  const value = namespace?.metadata.annotations[annotation];
  if (value === undefined || value === "false" || policy.metadata.annotations[DRY_RUN] !== undefined) return { policy, faults: [] };
  if (value === "true") return { policy: { ...policy, dryRun: true }, faults: [] };
  const reason = `of the namespace must be true or false, and is ${JSON.stringify(value)}; the policy is enforced`;
  return { policy, faults: [{ annotation, value, reason }] };
}
