// Which pods are a waypoint's: those that say of which Gateway they are, and that it is of our class.
import { kubernetes } from "#contract/tables.ts";
import type { Pod } from "#mesh/objects.ts";

/** Name of the Gateway, in the pod's own namespace; null of every other pod. */
export function gatewayOf({ metadata }: Pod): string | null {
  const { labels } = metadata;
  return labels[kubernetes.gatewayClassLabel] === kubernetes.waypointClass ? (labels[kubernetes.gatewayNameLabel] ?? null) : null;
}
