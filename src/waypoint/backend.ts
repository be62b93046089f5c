// What a route's reference to a backend means: a port of a destination that the waypoint knows, or why its requests are refused.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type BackendSchema, Protocol } from "#contract/gen/route_pb.ts";
import { type PortProtocol, protocolOf } from "#mesh/protocol.ts";
import type { ObjectRef } from "#mesh/route.ts";
import { type Destination, type DestinationKey, destinationKey, ENTRY_GROUP, titleOf } from "./destination.ts";

export type BackendFault = {
  readonly reason: "InvalidKind" | "BackendNotFound" | "RefNotPermitted" | "UnsupportedProtocol";
  readonly message: string;
};

/** What compiling a table may ask of the cluster. */
export type Known = {
  destination(key: DestinationKey): Destination | undefined;
  /** Who has this host, as clients of the namespace find it. */
  host(host: string, namespace: string): Destination | undefined;
};

export type WireBackend = MessageInitShape<typeof BackendSchema>;

/** By the API: the share of a backend that cannot be used is answered with this. */
export const REFUSED = 500;

export const WIRE_PROTOCOLS: Readonly<Record<PortProtocol, Protocol>> = {
  http: Protocol.HTTP,
  http2: Protocol.HTTP2,
  grpc: Protocol.GRPC,
  tcp: Protocol.TCP,
  tls: Protocol.TLS,
};

export type Resolved = { readonly service: string; readonly port: number; readonly protocol: Protocol };

/** Istio's reference to a host, of whatever it is. */
const isHostname = ({ group, kind }: ObjectRef): boolean => group === ENTRY_GROUP && kind === "Hostname";

/**
 * Any namespace's Services: routes of a mesh need no ReferenceGrant (GEP-1294), since they let nobody reach what was not in reach before.
 * `namespace`: the route's, for a ServiceEntry may be known to clients of one namespace alone.
 */
export function resolve(ref: ObjectRef, namespace: string, known: Known): Resolved | BackendFault {
  const fault = (reason: BackendFault["reason"], what: string): BackendFault => ({ reason, message: `${ref.field}: ${what}` });
  const key = destinationKey(ref);
  if (key === null && !isHostname(ref)) {
    const kinds = `Services are, and ServiceEntry and Hostname of ${ENTRY_GROUP}`;
    return fault("InvalidKind", `${ref.kind} of ${ref.group === "" ? "the core" : ref.group} is no backend; ${kinds}`);
  }
  const found = key === null ? known.host(ref.name, namespace) : known.destination(key);
  const title = key === null ? `host ${ref.name}` : titleOf(key);
  if (found === undefined) return fault("BackendNotFound", `there is no ${title}${key === null ? ` for clients of ${namespace}` : ""}`);
  if (found.unusable !== "") return fault("BackendNotFound", `${title} ${found.unusable}`);
  if (found.onlyFor !== null && found.onlyFor !== namespace)
    return fault("RefNotPermitted", `${title} is for clients of ${found.onlyFor} alone`);
  const [name = "", ...more] = key === null ? found.names.filter((one) => one.endsWith(`/${ref.name}`)) : found.names;
  if (more.length > 0) return fault("BackendNotFound", `${title} has several hosts; name one, with kind Hostname of ${ENTRY_GROUP}`);
  if (ref.port === null) return fault("BackendNotFound", `needs the port of ${title}`);
  const port = found.ports.find((one) => one.port === ref.port);
  if (port === undefined) return fault("BackendNotFound", `${title} has no TCP port ${ref.port}`);
  const protocol = protocolOf(port);
  return { service: name, port: ref.port, protocol: protocol === null ? Protocol.UNSPECIFIED : WIRE_PROTOCOLS[protocol] };
}

export const isFault = (resolved: Resolved | BackendFault): resolved is BackendFault => "reason" in resolved;

/** A rule of which nothing can be used. */
export const refusal = (): WireBackend => ({ refuseStatus: REFUSED, weight: 1 });

/** As the API has it: weights of nothing send nothing anywhere. */
export const weighted = (backends: readonly WireBackend[]): readonly WireBackend[] =>
  backends.length > 0 && backends.every(({ weight }) => weight === 0) ? [refusal()] : backends;
