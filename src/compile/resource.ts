// What the compiler yields: named, versioned, encoded resources per xDS type, and the status of the objects they came from.
import type { ErrorCode } from "#contract/tables.ts";
import type { ObjectKey } from "#mesh/objects.ts";

export const ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address";
export const AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization";

export type TypeUrl = typeof ADDRESS_TYPE | typeof AUTHORIZATION_TYPE;

/** Encoded once for every node that gets it. */
export type Resource = {
  /** Workload uid, "namespace/hostname" of a service, "namespace/name" of a policy. */
  readonly name: string;
  /** Content hash: equal versions mean equal bodies. */
  readonly version: string;
  /** Other names by which it can be asked for: "network/ip". */
  readonly aliases: readonly string[];
  /** The encoded message, without the Any around it. */
  readonly body: Uint8Array;
};

export type Delta = { readonly typeUrl: TypeUrl; readonly upsert: readonly Resource[]; readonly remove: readonly string[] };

/** An object that is in force in another way than it was written, and how. */
export type ObjectFault = { readonly key: ObjectKey; readonly code: ErrorCode; readonly field: string; readonly reason: string };

export type Compiled = {
  /** Policies first, then addresses: no workload may arrive before what protects it. Types without a change are left out. */
  readonly deltas: readonly Delta[];
  /** Resources that had to be computed again, changed or not: the work that this change cost. */
  readonly recompiled: number;
};
