// Finds the policies that are attached to something by its targetRefs.
import type { AuthorizationPolicy, RequestAuthentication, TargetRef } from "#mesh/authorization.ts";
import type { MeshObject } from "#mesh/objects.ts";
import type { BackendPolicy, RequestPolicy } from "#mesh/traffic.ts";

export type Attached = AuthorizationPolicy | RequestAuthentication | BackendPolicy | RequestPolicy;

/** "Kind/namespace/name" of what is targeted, there or not. */
export type TargetKey = `${string}/${string}/${string}`;

export type TargetIndex = {
  add(policy: Attached): void;
  delete(policy: Attached): void;
  of(target: TargetKey): readonly Attached[];
  /** Policies of action CUSTOM: what they do depends on who can be asked. */
  asking(): Iterable<AuthorizationPolicy>;
};

/** Null: it has no targets, so that nothing is enforced by a waypoint for it. */
export const attachedOf = (object: MeshObject): Attached | null => ("targets" in object && object.targets.length > 0 ? object : null);

/** A class is the cluster's, so that only the root namespace may attach something to it. */
export const targetKey = ({ kind, name }: TargetRef, namespace: string): TargetKey =>
  kind === "GatewayClass" ? `GatewayClass//${name}` : `${kind}/${namespace}/${name}`;

/** Those that count: of a class only the root namespace's. */
export const targetKeysOf = ({ targets, metadata }: Attached, rootNamespace: string): TargetKey[] => [
  ...new Set(
    targets
      .filter(({ kind }) => kind !== "GatewayClass" || metadata.namespace === rootNamespace)
      .map((one) => targetKey(one, metadata.namespace)),
  ),
];

export function targetIndex(rootNamespace: string): TargetIndex {
  const byTarget = new Map<TargetKey, Set<Attached>>();
  const asking = new Set<AuthorizationPolicy>();
  return {
    add: (policy) => {
      for (const key of targetKeysOf(policy, rootNamespace)) byTarget.set(key, (byTarget.get(key) ?? new Set()).add(policy));
      if (policy.kind === "AuthorizationPolicy" && policy.action === "CUSTOM") asking.add(policy);
    },
    delete: (policy) => {
      for (const key of targetKeysOf(policy, rootNamespace)) {
        byTarget.get(key)?.delete(policy);
        if (byTarget.get(key)?.size === 0) byTarget.delete(key);
      }
      if (policy.kind === "AuthorizationPolicy") asking.delete(policy);
    },
    of: (target) => [...(byTarget.get(target) ?? [])],
    asking: () => asking,
  };
}
