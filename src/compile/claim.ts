// Whose an address is when several objects claim it: nobody may take another's traffic by writing its address a second time.

import { spellAddress } from "#mesh/address.ts";
import { compareAge } from "#mesh/age.ts";
import { keyOf, type MeshObject, type Pod, type Service } from "#mesh/objects.ts";
import type { ObjectFault } from "./resource.ts";
import { isReachable } from "./workload.ts";

export type Claimant = Pod | Service;

export type Claims = {
  add(object: MeshObject): void;
  delete(object: MeshObject): void;
  /** Every object of the same kind that claims an address of this one, itself included when it was added. */
  rivals(object: Claimant): Iterable<Claimant>;
  /** Whose pod has the address, as `settle` decides it. */
  podAt(address: string): Pod | undefined;
  /** The object with the addresses that are its own, and a fault for each that is another's. */
  settle<T extends Claimant>(object: T): { readonly object: T; readonly faults: readonly ObjectFault[] };
};

export function createClaims(): Claims {
  const claimants = new Map<string, Set<Claimant>>();

  function slots(object: MeshObject): string[] {
    if (object.kind !== "Pod" && object.kind !== "Service") return [];
    return addressesOf(object).map((address) => slot(object, address));
  }

  /** The oldest, then the first by name. */
  function ownerOf(object: Claimant, address: string): Claimant {
    const rivals = claimants.get(slot(object, address)) ?? new Set<Claimant>();
    return [...rivals].reduce((first, other) => (compareAge(other, first) < 0 ? other : first), object);
  }

  function settle<T extends Claimant>(object: T): { readonly object: T; readonly faults: readonly ObjectFault[] } {
    const lost = new Map(addressesOf(object).map((address) => [address, ownerOf(object, address)]));
    for (const [address, owner] of lost) if (owner === object) lost.delete(address);
    if (lost.size === 0) return { object, faults: [] };
    const faults = [...lost].map(([address, owner]) => fault(object, address, owner));
    const left = written(object).filter((address) => !lost.has(address));
    return { object: { ...object, ...(object.kind === "Pod" ? { podIPs: left } : { clusterIPs: left }) }, faults };
  }

  function podAt(address: string): Pod | undefined {
    const rivals = [...(claimants.get(slotOf("Pod", address)) ?? [])].sort(compareAge);
    return rivals[0]?.kind === "Pod" ? rivals[0] : undefined;
  }

  return {
    podAt,
    add: (object) => {
      for (const key of slots(object)) claimants.set(key, (claimants.get(key) ?? new Set()).add(object as Claimant));
    },
    delete: (object) => {
      for (const key of slots(object)) {
        claimants.get(key)?.delete(object as Claimant);
        if (claimants.get(key)?.size === 0) claimants.delete(key);
      }
    },
    rivals: (object) => slots(object).flatMap((key) => [...(claimants.get(key) ?? [])]),
    settle,
  };
}

const written = (object: Claimant): readonly string[] => (object.kind === "Pod" ? object.podIPs : object.clusterIPs);

/** Pods on the host's network share its address by right; what is over or is only an alias has none. */
function addressesOf(object: Claimant): readonly string[] {
  const claims = object.kind === "Pod" ? isReachable(object) && !object.hostNetwork : object.type !== "ExternalName";
  return claims ? written(object) : [];
}

/** One spelling for each address; pods and services are asked for apart. */
const slot = ({ kind }: Claimant, address: string): string => slotOf(kind, address);

const slotOf = (kind: Claimant["kind"], address: string): string => `${kind} ${spellAddress(address)}`;

function fault(object: Claimant, address: string, owner: Claimant): ObjectFault {
  const nameOf = ({ kind, metadata }: Claimant): string => `${kind} ${metadata.namespace}/${metadata.name}`;
  return {
    key: keyOf(object),
    code: "E_SOURCE_INVALID",
    field: object.kind === "Pod" ? "status.podIPs" : "spec.clusterIPs",
    reason: `${address} belongs to ${nameOf(owner)}, which is older or comes first by name; ${nameOf(object)} is in force without it`,
  };
}
