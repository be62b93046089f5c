// What a waypoint's engine gets of everything that is compiled: itself, and what is in its scope. After the first time at the cost of
// what a batch brought.
import type { Compiler } from "#compile/compiler.ts";
import type { Resource } from "#compile/resource.ts";
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { StateChange, StateKey, StateResource } from "#engine/director.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Pod } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { type Scope, waypointKey } from "#waypoint/waypoint.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type TypeUrl } from "#xds/resource.ts";
import type { ResourceStore, StoreChange } from "#xds/store.ts";

export type FeedOptions = {
  readonly store: ResourceStore;
  readonly compiler: Pick<Compiler, "scopeOf" | "routes">;
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

const { ADDRESS, AUTHORIZATION, ROUTES } = ResourceType;

export function scopedFeed({ store, compiler, uidOf, adopt }: FeedOptions): WaypointFeed {
  const changed = new Map<TypeUrl, Set<string>>([
    [ADDRESS_TYPE, new Set()],
    [AUTHORIZATION_TYPE, new Set()],
  ]);
  const changedOf = (typeUrl: TypeUrl): ReadonlySet<string> => changed.get(typeUrl) ?? new Set();

  function scopeOf(pod: Pod): Scope | null {
    const name = gatewayOf(pod, adopt);
    return name === null ? null : compiler.scopeOf(waypointKey({ namespace: pod.metadata.namespace, name }));
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
    /** Their resources as they were told last: routes are not in the store. */
    let routes = new Map<string, Resource | undefined>();

    return (pod) => {
      const now = scopeOf(pod);
      const whole = now !== scope;
      const own = uidOf(pod);
      const known = compiler.routes();
      const all = [...(now?.routes ?? [])];
      const outdated = whole ? all : all.filter((name) => routes.get(name) !== known.get(name));
      // A workload names its policies, and one that is not known denies: all of them are there before anything asks.
      const policies = whole
        ? (now?.policies ?? new Set())
        : [...changedOf(AUTHORIZATION_TYPE)].filter((name) => now?.policies.has(name) === true);
      const addresses = whole
        ? new Set([own, ...(now?.addresses ?? [])])
        : [...changedOf(ADDRESS_TYPE)].filter((name) => name === own || now?.addresses.has(name) === true);
      scope = now;
      routes = new Map(all.map((name) => [name, known.get(name)]));
      const parts = [
        told(AUTHORIZATION, policies, inStore(AUTHORIZATION_TYPE)),
        told(ADDRESS, addresses, inStore(ADDRESS_TYPE)),
        told(ROUTES, outdated, (name) => known.get(name)),
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
