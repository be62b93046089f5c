// Finds the routes that are attached to a service, and those that send to it.
import type { Filter, ObjectRef, Route } from "#mesh/route.ts";
import { isOfService } from "#waypoint/attach.ts";

/** "namespace/name" of a Service, there or not. */
export type ServiceKey = `${string}/${string}`;

export type RouteIndex = {
  add(route: Route): void;
  delete(route: Route): void;
  attachedTo(service: ServiceKey): readonly Route[];
  /** Services whose routes send to this one: what they do depends on whether it is there. */
  sendingTo(service: ServiceKey): ReadonlySet<ServiceKey>;
  all(): Iterable<Route>;
};

const keyOf = ({ namespace, name }: { readonly namespace: string; readonly name: string }): ServiceKey => `${namespace}/${name}`;

export const parentsOf = ({ parents }: Route): ServiceKey[] => [...new Set(parents.filter(isOfService).map(keyOf))];

const mirrors = (filters: readonly Filter[]): ObjectRef[] => filters.flatMap((one) => (one.type === "RequestMirror" ? [one.backend] : []));

const backendsOf = (route: Route): ServiceKey[] => {
  const refs = route.rules.flatMap((rule) => [
    ...rule.backends,
    ...rule.backends.flatMap(({ filters }) => mirrors(filters)),
    ...("filters" in rule ? mirrors(rule.filters) : []),
  ]);
  return [...new Set(refs.map(keyOf))];
};

export function routeIndex(): RouteIndex {
  const routes = new Set<Route>();
  const byParent = new Map<ServiceKey, Set<Route>>();
  const byBackend = new Map<ServiceKey, Set<Route>>();
  const put = (index: Map<ServiceKey, Set<Route>>, key: ServiceKey, route: Route): void =>
    void index.set(key, (index.get(key) ?? new Set()).add(route));
  const take = (index: Map<ServiceKey, Set<Route>>, key: ServiceKey, route: Route): void => {
    index.get(key)?.delete(route);
    if (index.get(key)?.size === 0) index.delete(key);
  };
  return {
    add: (route) => {
      routes.add(route);
      for (const key of parentsOf(route)) put(byParent, key, route);
      for (const key of backendsOf(route)) put(byBackend, key, route);
    },
    delete: (route) => {
      routes.delete(route);
      for (const key of parentsOf(route)) take(byParent, key, route);
      for (const key of backendsOf(route)) take(byBackend, key, route);
    },
    attachedTo: (service) => [...(byParent.get(service) ?? [])],
    sendingTo: (service) => new Set([...(byBackend.get(service) ?? [])].flatMap(parentsOf)),
    all: () => routes.values(),
  };
}
