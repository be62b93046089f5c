// Ports of a service whose bytes nobody looks into, whatever the port is called: by annotation, of the service or else of its namespace.
import { annotations } from "#contract/tables.ts";
import { type AnnotationFault, parseList, parsePort } from "./capture.ts";
import type { Namespace, ObjectMeta, ServicePort } from "./objects.ts";

type Range = { readonly first: number; readonly last: number };

function parseRange(item: string): Range | null {
  const [first = null, last = first, more] = item.split("-").map(parsePort);
  return first === null || last === null || last < first || more !== undefined ? null : { first, last };
}

/**
 * The service with TCP as what is spoken at its opaque ports. An annotation that cannot be read makes all of its ports opaque: what was not
 * to be looked into is not.
 */
export function withOpaquePorts<S extends { readonly metadata: ObjectMeta; readonly ports: readonly ServicePort[] }>(
  service: S,
  namespace: Namespace | undefined,
): { readonly service: S; readonly faults: readonly AnnotationFault[] } {
  const annotation = annotations.opaquePorts;
  const value = service.metadata.annotations[annotation] ?? namespace?.metadata.annotations[annotation];
  if (value === undefined) return { service, faults: [] };
  const ranges = parseList(value, parseRange, "a port from 1 to 65535, or two of them with - between");
  const isOpaque = (port: number): boolean => typeof ranges === "string" || ranges.some(({ first, last }) => first <= port && port <= last);
  const ports = service.ports.map((one) => (isOpaque(one.port) ? { ...one, appProtocol: "tcp" } : one));
  const faults =
    typeof ranges === "string"
      ? [{ annotation, value, reason: `${ranges}; until it is corrected every port of the service is opaque` }]
      : [];
  return { service: { ...service, ports }, faults };
}
