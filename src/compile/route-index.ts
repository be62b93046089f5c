// Finds the routes that are attached to a destination, and those that send to it.
import type { Filter, ObjectRef, Route } from "#mesh/route.ts";
import { type DestinationKey, destinationKey } from "#waypoint/destination.ts";

/** What a reference depends on: a destination, or a host of whatever destination it is. */
export type ReferenceKey = DestinationKey | `Hostname/${string}`;

export type RouteIndex = {
  add(route: Route): void;
  delete(route: Route): void;
  attachedTo(destination: DestinationKey): readonly Route[];
  /** Destinations whose routes send to this one: what they do depends on whether it is there. */
  sendingTo(reference: ReferenceKey): ReadonlySet<DestinationKey>;
  all(): Iterable<Route>;
};

export const parentsOf = ({ parents }: Route): DestinationKey[] => [...new Set(parents.map(destinationKey).filter((key) => key !== null))];

const mirrors = (filters: readonly Filter[]): ObjectRef[] => filters.flatMap((one) => (one.type === "RequestMirror" ? [one.backend] : []));

/** What a route sends to. */
export const referencesOf = (route: Route): ReferenceKey[] => {
  const refs = route.rules.flatMap((rule) => [
    ...rule.backends,
    ...rule.backends.flatMap(({ filters }) => mirrors(filters)),
    ...("filters" in rule ? mirrors(rule.filters) : []),
  ]);
  // Of a kind that is none of ours nothing ever comes.
  return [...new Set(refs.map((ref): ReferenceKey => destinationKey(ref) ?? `Hostname/${ref.name}`))];
};

export function routeIndex(): RouteIndex {
  const routes = new Set<Route>();
  const byParent = new Map<string, Set<Route>>();
  const byBackend = new Map<string, Set<Route>>();
  const put = (index: Map<string, Set<Route>>, key: string, route: Route): void =>
    void index.set(key, (index.get(key) ?? new Set()).add(route));
  const take = (index: Map<string, Set<Route>>, key: string, route: Route): void => {
    index.get(key)?.delete(route);
    if (index.get(key)?.size === 0) index.delete(key);
  };
  return {
    add: (route) => {
      routes.add(route);
      for (const key of parentsOf(route)) put(byParent, key, route);
      for (const key of referencesOf(route)) put(byBackend, key, route);
    },
    delete: (route) => {
      routes.delete(route);
      for (const key of parentsOf(route)) take(byParent, key, route);
      for (const key of referencesOf(route)) take(byBackend, key, route);
    },
    attachedTo: (destination) => [...(byParent.get(destination) ?? [])],
    sendingTo: (reference) => new Set([...(byBackend.get(reference) ?? [])].flatMap(parentsOf)),
    all: () => routes.values(),
  };
}
