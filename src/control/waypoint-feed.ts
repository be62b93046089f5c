// What a waypoint's engine gets of everything that is compiled: itself, and what is in its scope. After the first time at the cost of
// what a batch brought.
import type { Compiler } from "#compile/compiler.ts";
import type { Resource } from "#compile/resource.ts";
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { StateChange, StateKey, StateResource } from "#engine/director.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Pod } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { type Scope, type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type TypeUrl } from "#xds/resource.ts";
import type { ResourceStore, StoreChange } from "#xds/store.ts";

export type FeedOptions = {
  readonly store: ResourceStore;
  readonly compiler: Pick<Compiler, "scopeOf" | "routes"> & { readonly policies: Omit<Compiler["policies"], "statuses"> };
  /** Name of a pod's own workload. */
  readonly uidOf: (pod: Pod) => string;
  readonly adopt: Adoption;
};

/** One waypoint's: what it should hold, first whole and then by difference. */
export type Follow = (pod: Pod) => StateChange;

export type WaypointFeed = {
  open(): Follow;
  /** The store changed; counts until everybody who follows was asked. */
  touched(change: Pick<StoreChange, "typeUrl" | "changes">): void;
  /** Everybody who follows was asked. */
  settled(): void;
};

const { ADDRESS, AUTHORIZATION, ROUTES, ACCESS, BACKEND_SETTINGS, REQUEST_SETTINGS } = ResourceType;

export function scopedFeed({ store, compiler, uidOf, adopt }: FeedOptions): WaypointFeed {
  const changed = new Map<TypeUrl, Set<string>>([
    [ADDRESS_TYPE, new Set()],
    [AUTHORIZATION_TYPE, new Set()],
  ]);
  const changedOf = (typeUrl: TypeUrl): ReadonlySet<string> => changed.get(typeUrl) ?? new Set();

  function waypointOf(pod: Pod): WaypointKey | null {
    const name = gatewayOf(pod, adopt);
    return name === null ? null : waypointKey({ namespace: pod.metadata.namespace, name });
  }

  function scopeOf(pod: Pod): Scope | null {
    const key = waypointOf(pod);
    return key === null ? null : compiler.scopeOf(key);
  }

  /** Those that there are go up, the others away. */
  function told(type: ResourceType, names: Iterable<string>, find: (name: string) => Resource | undefined) {
    const upsert: StateResource[] = [];
    const remove: StateKey[] = [];
    for (const name of names) {
      const found = find(name);
      if (found === undefined) remove.push({ type, name });
      else upsert.push({ type, name, version: found.version, body: found.body });
    }
    return { upsert, remove };
  }

  const inStore = (typeUrl: TypeUrl) => (name: string) => store.get(typeUrl, name)?.resource;

  function open(): Follow {
    let scope: Scope | null | undefined;
    /** Resources that are not in the store, as they were told last. */
    const last = new Map<ResourceType, ReadonlyMap<string, Resource>>();

    /** Those of the names whose resource is another than it was, or gone. */
    function difference(type: ResourceType, names: Iterable<string>, find: (name: string) => Resource | undefined, whole: boolean) {
      const before = whole ? new Map<string, Resource>() : (last.get(type) ?? new Map<string, Resource>());
      const now = new Map<string, Resource>();
      for (const name of names) {
        const found = find(name);
        if (found !== undefined) now.set(name, found);
      }
      last.set(type, now);
      const outdated = [...new Set([...before.keys(), ...now.keys()])].filter((name) => before.get(name) !== now.get(name));
      return told(type, outdated, (name) => now.get(name));
    }

    return (pod) => {
      const now = scopeOf(pod);
      const whole = now !== scope;
      const own = uidOf(pod);
      const { access, backendSettings, requestSettings, accessOfPods } = compiler.policies;
      const served = now?.routes ?? new Set<string>();
      const waypoint = waypointOf(pod);
      const pods = waypoint === null || now === null ? null : accessOfPods(waypoint);
      const guarded = pods === null ? served : [pods.name, ...served];
      // A workload names its policies, and one that is not known denies: all of them are there before anything asks.
      const policies = whole
        ? (now?.policies ?? new Set())
        : [...changedOf(AUTHORIZATION_TYPE)].filter((name) => now?.policies.has(name) === true);
      const addresses = whole
        ? new Set([own, ...(now?.addresses ?? [])])
        : [...changedOf(ADDRESS_TYPE)].filter((name) => name === own || now?.addresses.has(name) === true);
      scope = now;
      const parts = [
        told(AUTHORIZATION, policies, inStore(AUTHORIZATION_TYPE)),
        told(ADDRESS, addresses, inStore(ADDRESS_TYPE)),
        difference(ACCESS, guarded, (name) => (name === pods?.name ? pods : access.get(name)), whole),
        difference(ROUTES, served, (name) => compiler.routes().get(name), whole),
        difference(REQUEST_SETTINGS, served, (name) => requestSettings.get(name), whole),
        // Of whatever it sends to.
        difference(BACKEND_SETTINGS, now?.addresses ?? [], (name) => backendSettings.get(name), whole),
      ];
      return {
        reset: whole,
        upsert: parts.flatMap(({ upsert }) => upsert),
        remove: whole ? [] : parts.flatMap(({ remove }) => remove),
      };
    };
  }

  return {
    open,
    touched: ({ typeUrl, changes }) => {
      for (const name of changes.keys()) changed.get(typeUrl)?.add(name);
    },
    settled: () => {
      for (const names of changed.values()) names.clear();
    },
  };
}
