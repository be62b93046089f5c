// How far the engine looks into what a pod's connections carry: by annotation, of the pod or else of its namespace.
import { annotations } from "#contract/tables.ts";
import type { AnnotationFault } from "./capture.ts";
import type { Namespace, Pod } from "./objects.ts";

/** Nothing; the protocol, by the first bytes; and the requests of one connection in ten; and those of each. */
export const OBSERVATIONS = ["off", "protocol", "sampled", "full"] as const;
export type Observation = (typeof OBSERVATIONS)[number];

const isObservation = (value: string): value is Observation => OBSERVATIONS.some((one) => one === value);

/** An annotation that cannot be read is as one that says off: what was perhaps not to be looked into is not. */
export function observation(
  namespace: Namespace | undefined,
  pod: Pod,
): { readonly observe: Observation; readonly faults: readonly AnnotationFault[] } {
  const annotation = annotations.observe;
  const value = pod.metadata.annotations[annotation] ?? namespace?.metadata.annotations[annotation] ?? "protocol";
  if (isObservation(value)) return { observe: value, faults: [] };
  const reason = `must be one of ${OBSERVATIONS.join(", ")}; until it is corrected nothing is observed`;
  return { observe: "off", faults: [{ annotation, value, reason }] };
}
