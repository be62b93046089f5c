// All that a waypoint knows of one destination, from the routes attached to it, and what became of each of these routes.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type PortSchema, Protocol, type Routes, RoutesSchema, type RuleSetSchema } from "#contract/gen/route_pb.ts";
import { compareAge } from "#mesh/age.ts";
import type { ServicePort } from "#mesh/objects.ts";
import { protocolOf } from "#mesh/protocol.ts";
import type { GRPCRoute, HTTPRoute, Route, TCPRoute, TLSRoute } from "#mesh/route.ts";
import { type Attachment, type Audience, attachmentsOf, audienceOf, kindInForce } from "./attach.ts";
import { type BackendFault, type Known, WIRE_PROTOCOLS } from "./backend.ts";
import type { Destination } from "./destination.ts";
import { compileGrpc, compileHttp } from "./http.ts";
import { compileStream } from "./stream.ts";

/** What a parentRef of a route came to. */
export type Verdict = {
  /** Ports where it is in force, and ports that a kind of higher rank has. */
  readonly ports: readonly number[];
  readonly conflicts: readonly { readonly port: number; readonly kind: Route["kind"] }[];
};

export type Table = {
  /** Under the first name of the destination; under each other they are the same. */
  readonly routes: Routes;
  /** By route, then by index in route.parents. A parentRef that names no port of it is not there. */
  readonly verdicts: ReadonlyMap<Route, ReadonlyMap<number, Verdict>>;
  /** References that cannot be used, by route. */
  readonly faults: ReadonlyMap<Route, readonly BackendFault[]>;
};

type WireRules = MessageInitShape<typeof RuleSetSchema>;
type Tell = (route: Route, fault: BackendFault) => void;

/** `attached` has at least every route with a parentRef to the destination, each once. */
export function compileTable(destination: Destination, attached: readonly Route[], known: Known): Table {
  // In an order of their own, so that equal routes make equal tables.
  const attachments = [...attached].sort(compareAge).flatMap((route) => attachmentsOf(route, destination));
  const faults = new Map<Route, Map<string, BackendFault>>();
  const tell: Tell = (route, fault) => {
    const told = faults.get(route) ?? new Map<string, BackendFault>();
    faults.set(route, told.set(fault.message, fault));
  };
  const verdicts = new Map<Route, Map<number, Verdict>>();
  const ports = destination.ports.map((port) =>
    portOf(
      port,
      attachments.filter((one) => one.port === port),
      destination,
      verdicts,
      known,
      tell,
    ),
  );
  return {
    routes: create(RoutesSchema, { service: destination.names[0] ?? "", ports }),
    verdicts,
    faults: new Map([...faults].map(([route, told]) => [route, [...told.values()]])),
  };
}

/** The same service with every route of it refused: for a table that is larger than its reader would take. */
export function closedTable(routes: Routes): Routes {
  const closed = { kind: { case: "http" as const, value: { entries: [], rules: [] } } };
  const ports = routes.ports.map(({ port, protocol, producer, consumers }) => ({
    port,
    protocol,
    ...(producer === undefined && Object.keys(consumers).length === 0 ? {} : { producer: closed }),
  }));
  return create(RoutesSchema, { service: routes.service, ports, guarded: routes.guarded });
}

function portOf(
  port: ServicePort,
  attachments: readonly Attachment[],
  destination: Destination,
  verdicts: Map<Route, Map<number, Verdict>>,
  known: Known,
  tell: Tell,
): MessageInitShape<typeof PortSchema> {
  const consumers: Record<Audience, WireRules> = {};
  let producer: WireRules | null = null;
  let protocol = declaredOf(port);
  const byAudience = Map.groupBy(attachments, ({ route }) => audienceOf(route, destination));
  for (const audience of [...byAudience.keys()].sort()) {
    const here = byAudience.get(audience) ?? [];
    const kind = kindInForce(here.map(({ route }) => route));
    if (kind === null) continue;
    for (const one of here) judge(one, kind, verdicts);
    const inForce = here.filter(({ route }) => route.kind === kind);
    const rules = rulesOf(kind, [...new Set(inForce.map(({ route }) => route))], known, tell);
    if (audience !== "") consumers[audience] = rules;
    else {
      producer = rules;
      protocol = protocolFor(kind, port, inForce);
    }
  }
  return { port: port.port, protocol, ...(producer === null ? {} : { producer }), consumers };
}

function judge({ route, parent, port }: Attachment, kind: Route["kind"], verdicts: Map<Route, Map<number, Verdict>>): void {
  const byParent = verdicts.get(route) ?? new Map<number, Verdict>();
  const { ports, conflicts } = byParent.get(parent) ?? { ports: [], conflicts: [] };
  const won = route.kind === kind;
  byParent.set(parent, {
    ports: won ? [...ports, port.port] : ports,
    conflicts: won ? conflicts : [...conflicts, { port: port.port, kind }],
  });
  verdicts.set(route, byParent);
}

/** The routes are all of this kind. */
function rulesOf(kind: Route["kind"], routes: readonly Route[], known: Known, tell: Tell): WireRules {
  switch (kind) {
    case "GRPCRoute":
      return { kind: { case: "http", value: compileGrpc(routes as readonly GRPCRoute[], known, tell) } };
    case "HTTPRoute":
      return { kind: { case: "http", value: compileHttp(routes as readonly HTTPRoute[], known, tell) } };
    case "TLSRoute":
      return { kind: { case: "tls", value: compileStream(routes as readonly TLSRoute[], known, tell) } };
    case "TCPRoute":
      return { kind: { case: "tcp", value: compileStream(routes as readonly TCPRoute[], known, tell) } };
  }
}

function declaredOf(port: ServicePort): Protocol {
  const declared = protocolOf(port);
  return declared === null ? Protocol.UNSPECIFIED : WIRE_PROTOCOLS[declared];
}

/**
 * The kind of the routes says how clients speak. An HTTPRoute for every port, on a port of which nobody says what is spoken there, does not:
 * what turns out to be HTTP obeys it, and what is not never asked for it.
 */
function protocolFor(kind: Route["kind"], port: ServicePort, attachments: readonly Attachment[]): Protocol {
  if (kind === "GRPCRoute") return Protocol.GRPC;
  if (kind === "TLSRoute") return Protocol.TLS;
  if (kind === "TCPRoute") return Protocol.TCP;
  const declared = declaredOf(port);
  if (declared === Protocol.HTTP2 || declared === Protocol.GRPC || declared === Protocol.HTTP) return declared;
  return attachments.some(({ explicit }) => explicit) ? Protocol.HTTP : Protocol.UNSPECIFIED;
}
