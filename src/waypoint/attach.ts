// Which routes a port of a destination has, for whom: by parentRefs, by the route's namespace, and by the rank of its kind.
import type { ServicePort } from "#mesh/objects.ts";
import { type PortProtocol, protocolOf } from "#mesh/protocol.ts";
import { ROUTE_KINDS, type Route } from "#mesh/route.ts";
import { type Destination, destinationKey } from "./destination.ts";

export type Attachment = {
  readonly route: Route;
  /** Index in route.parents. */
  readonly parent: number;
  readonly port: ServicePort;
  /** The parentRef names this port. */
  readonly explicit: boolean;
};

/** Whose requests: empty for everybody's, by routes of the destination's own namespace; otherwise those of clients of one namespace, by its routes. */
export type Audience = string;

export const audienceOf = (route: Route, { metadata }: Pick<Destination, "metadata">): Audience =>
  route.metadata.namespace === metadata.namespace ? "" : route.metadata.namespace;

/** What a route without a port in its parentRef leaves alone: it would break clients who were never asked. */
const FOREIGN: Readonly<Record<Route["kind"], readonly (PortProtocol | null)[]>> = {
  HTTPRoute: ["tcp", "tls"],
  GRPCRoute: ["tcp", "tls"],
  TLSRoute: ["http", "http2", "grpc", "tcp"],
  TCPRoute: [],
};

export function attachmentsOf(route: Route, { key, ports }: Destination): Attachment[] {
  return route.parents.flatMap((parent, index) => {
    if (destinationKey(parent) !== key) return [];
    const explicit = parent.port !== null || parent.sectionName !== "";
    return ports
      .filter(
        (port) => (parent.port === null || parent.port === port.port) && (parent.sectionName === "" || parent.sectionName === port.name),
      )
      .filter((port) => explicit || !FOREIGN[route.kind].includes(protocolOf(port)))
      .map((port) => ({ route, parent: index, port, explicit }));
  });
}

/**
 * The kind that has the port, of the routes of one audience: the first by the API's rank. Routes that are not accepted take a port only from
 * nobody.
 */
export function kindInForce(routes: Iterable<Route>): Route["kind"] | null {
  const all = [...routes];
  const accepted = all.filter(({ unsupported }) => unsupported.length === 0);
  const kinds = new Set((accepted.length > 0 ? accepted : all).map(({ kind }) => kind));
  return ROUTE_KINDS.find((kind) => kinds.has(kind)) ?? null;
}
