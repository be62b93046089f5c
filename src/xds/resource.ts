// The vocabulary of delta discovery: named, versioned, opaque resources, and what changed in them.
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type Resource, type TypeUrl } from "#compile/resource.ts";
import type { ErrorCode } from "#contract/tables.ts";

export { ADDRESS_TYPE, AUTHORIZATION_TYPE, type TypeUrl } from "#compile/resource.ts";

/** Discovery carries what the compiler makes, without looking into it. */
export type XdsResource = Resource;

/** In this order they are subscribed; policies first, so that no workload arrives before what protects it. */
export const RESOURCE_TYPES: readonly TypeUrl[] = [AUTHORIZATION_TYPE, ADDRESS_TYPE];

/** What changed in one type since the last delta, already reduced to names that the receiver holds or needs. */
export type XdsDelta = { readonly typeUrl: TypeUrl; readonly upsert: readonly XdsResource[]; readonly remove: readonly string[] };

/** A resource that the receiver cannot use; its older version, when there is one, stays in force. */
export type Rejection = { readonly name: string; readonly code: ErrorCode; readonly reason: string };

export const isTypeUrl = (url: string): url is TypeUrl => url === ADDRESS_TYPE || url === AUTHORIZATION_TYPE;
