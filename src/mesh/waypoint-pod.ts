// Which pods are a waypoint's: those that say of which Gateway they are, and that it is of our class.
import { kubernetes } from "#contract/tables.ts";
import type { Adoption } from "./enrolment.ts";
import type { Pod } from "./objects.ts";

/** Istio's class of the same, ours with --adopt=istio. */
const ISTIO_CLASS = "istio-waypoint";

/** Classes whose Gateways are waypoints of ours. */
export const waypointClasses = (adopt: Adoption): readonly string[] =>
  adopt === "istio" ? [kubernetes.waypointClass, ISTIO_CLASS] : [kubernetes.waypointClass];

/** Name of the Gateway, in the pod's own namespace; null of every other pod. */
export function gatewayOf({ metadata: { labels } }: Pod, adopt: Adoption = "none"): string | null {
  const className = labels[kubernetes.gatewayClassLabel];
  if (className === undefined || !waypointClasses(adopt).includes(className)) return null;
  return labels[kubernetes.gatewayNameLabel] ?? null;
}
