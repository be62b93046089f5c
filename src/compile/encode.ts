// Messages become resources: encoded once, versioned by content.
import { hash } from "node:crypto";
import { create, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type Authorization, AuthorizationSchema } from "#contract/gen/istio/security_pb.ts";
import { AddressSchema, type Service, type Workload } from "#contract/gen/istio/workload_pb.ts";
import { type Routes, RoutesSchema } from "#contract/gen/route_pb.ts";
import { formatAddress } from "#mesh/address.ts";
import type { Resource } from "./resource.ts";

/** 128 bits of SHA-256: equal versions mean equal bodies for anybody who does not control 2^64 objects. */
const VERSION_CHARACTERS = 32;

const resource = (name: string, aliases: readonly string[], body: Uint8Array): Resource => ({
  name,
  version: hash("sha256", body).slice(0, VERSION_CHARACTERS),
  aliases,
  // Copied into Node's pool: a hundred thousand buffers of their own cost more than what is in them.
  body: Buffer.from(body),
});

const aliasesOf = (network: string, addresses: readonly Uint8Array[]): string[] =>
  addresses.map((bytes) => `${network}/${formatAddress(bytes)}`);

/** `byAddress` is false for pods in the host's network, which are never found by an address. */
export const encodeWorkload = (workload: Workload, byAddress: boolean): Resource =>
  resource(
    workload.uid,
    byAddress ? aliasesOf(workload.network, workload.addresses) : [],
    toBinary(AddressSchema, create(AddressSchema, { type: { case: "workload", value: workload } })),
  );

export const encodeService = (service: Service): Resource =>
  resource(
    `${service.namespace}/${service.hostname}`,
    service.addresses.flatMap(({ network, address }) => aliasesOf(network, [address])),
    toBinary(AddressSchema, create(AddressSchema, { type: { case: "service", value: service } })),
  );

/** For waypoints: a message under the name of what it is about. */
export const encodeAbout = <D extends DescMessage>(name: string, schema: D, message: MessageShape<D>): Resource =>
  resource(name, [], toBinary(schema, message));

export const encodeRoutes = (routes: Routes): Resource => resource(routes.service, [], toBinary(RoutesSchema, routes));

export const encodeAuthorization = (policy: Authorization): Resource =>
  resource(`${policy.namespace}/${policy.name}`, [], toBinary(AuthorizationSchema, policy));
