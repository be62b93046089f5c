// What a route's reference to a backend means: a port of a service that the waypoint knows, or why its requests are refused.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type BackendSchema, Protocol } from "#contract/gen/route_pb.ts";
import { serviceHostname } from "#mesh/dns.ts";
import type { Service } from "#mesh/objects.ts";
import { isTcp, type PortProtocol, protocolOf } from "#mesh/protocol.ts";
import type { ObjectRef } from "#mesh/route.ts";

export type BackendFault = {
  readonly reason: "InvalidKind" | "BackendNotFound" | "RefNotPermitted" | "UnsupportedProtocol";
  readonly message: string;
};

/** What compiling a table may ask of the cluster. */
export type Known = {
  readonly clusterDomain: string;
  service(namespace: string, name: string): Service | undefined;
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

/** Any namespace: routes of a mesh need no ReferenceGrant (GEP-1294), since they let nobody reach what was not in reach before. */
export function resolve(ref: ObjectRef, known: Known): Resolved | BackendFault {
  const where = `${ref.field}: `;
  if (ref.group !== "" || ref.kind !== "Service")
    return {
      reason: "InvalidKind",
      message: `${where}${ref.kind} of ${ref.group === "" ? "the core" : ref.group} is no backend; Services are`,
    };
  const missing = (what: string): BackendFault => ({ reason: "BackendNotFound", message: `${where}${what}` });
  const name = `Service ${ref.namespace}/${ref.name}`;
  const service = known.service(ref.namespace, ref.name);
  if (service === undefined) return missing(`there is no ${name}`);
  if (service.type === "ExternalName") return missing(`${name} is an ExternalName: it has no endpoints`);
  if (ref.port === null) return missing(`needs the port of ${name}`);
  const port = service.ports.find((one) => one.port === ref.port && isTcp(one));
  if (port === undefined) return missing(`${name} has no TCP port ${ref.port}`);
  const protocol = protocolOf(port);
  return {
    service: `${ref.namespace}/${serviceHostname(ref.namespace, ref.name, known.clusterDomain)}`,
    port: ref.port,
    protocol: protocol === null ? Protocol.UNSPECIFIED : WIRE_PROTOCOLS[protocol],
  };
}

export const isFault = (resolved: Resolved | BackendFault): resolved is BackendFault => "reason" in resolved;

/** A rule of which nothing can be used. */
export const refusal = (): WireBackend => ({ refuseStatus: REFUSED, weight: 1 });

/** As the API has it: weights of nothing send nothing anywhere. */
export const weighted = (backends: readonly WireBackend[]): readonly WireBackend[] =>
  backends.length > 0 && backends.every(({ weight }) => weight === 0) ? [refusal()] : backends;
