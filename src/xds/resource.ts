// The vocabulary of delta discovery: named, versioned, opaque resources, and what changed in them.
import type { ErrorCode } from "#contract/tables.ts";

/** istio.workload.Address: workloads and services. */
export const ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address";
/** istio.security.Authorization: policies. */
export const AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization";

export type TypeUrl = typeof ADDRESS_TYPE | typeof AUTHORIZATION_TYPE;

/** In this order they are subscribed; policies first, so that no workload arrives before what protects it. */
export const RESOURCE_TYPES: readonly TypeUrl[] = [AUTHORIZATION_TYPE, ADDRESS_TYPE];

export type XdsResource = {
  /** Unique within its type: workload uid, "namespace/hostname" of a service, "namespace/name" of a policy. */
  readonly name: string;
  /** A content hash: equal versions mean equal bodies. */
  readonly version: string;
  /** Other names by which it can be asked for: "network/ip". */
  readonly aliases: readonly string[];
  /** The encoded message, without the Any around it. */
  readonly body: Uint8Array;
};

/** What changed in one type since the last delta, already reduced to names that the receiver holds or needs. */
export type XdsDelta = { readonly typeUrl: TypeUrl; readonly upsert: readonly XdsResource[]; readonly remove: readonly string[] };

/** A resource that the receiver cannot use; its older version, when there is one, stays in force. */
export type Rejection = { readonly name: string; readonly code: ErrorCode; readonly reason: string };

export const isTypeUrl = (url: string): url is TypeUrl => url === ADDRESS_TYPE || url === AUTHORIZATION_TYPE;
