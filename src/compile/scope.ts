// What the engine of a waypoint needs of everything that is compiled.
import type { Routes, RuleSet } from "#contract/gen/route_pb.ts";
import type { Scope } from "#waypoint/waypoint.ts";

export type ScopeInputs = {
  /** "namespace/hostname" of the waypoint's own Service. */
  readonly own: string;
  /** What it serves, and where their routes send. */
  readonly served: readonly { readonly service: string; readonly backends: readonly string[] }[];
  /** Workloads that are endpoints of a service, by the service's name. */
  readonly endpointsOf: (service: string) => Iterable<EndpointName>;
  /** Pods that it serves by their own addresses. */
  readonly pods: readonly EndpointName[];
  /** Its own pods. */
  readonly itself: readonly EndpointName[];
  /** Authorizations that hold for everybody in the namespace, and for everybody. */
  readonly policiesIn: (namespace: string) => Iterable<string>;
};

/** A workload as far as a scope is about it. */
export type EndpointName = {
  readonly uid: string;
  readonly namespace: string;
  /** Authorizations that pick it. */
  readonly policies: readonly string[];
};

/** `namespaces`: those whose policies may say something of it. */
export function scopeOf({ own, served, endpointsOf, pods, itself, policiesIn }: ScopeInputs): {
  readonly scope: Scope;
  readonly namespaces: ReadonlySet<string>;
} {
  const routes = new Set(served.map(({ service }) => service));
  const services = new Set([own, ...routes, ...served.flatMap(({ backends }) => backends)]);
  const found = [...pods, ...[...services].flatMap((service) => (service === own ? [] : [...endpointsOf(service)]))];
  const whose = [...found, ...itself];
  const namespaces = new Set(whose.map(({ namespace }) => namespace));
  const scope: Scope = {
    addresses: new Set([...services, ...found.map(({ uid }) => uid)]),
    routes,
    policies: new Set([...whose.flatMap(({ policies }) => policies), ...[...namespaces].flatMap((one) => [...policiesIn(one)])]),
  };
  return { scope, namespaces };
}

/** Backends and mirrors, of everybody's rules. */
export function backendsOf(routes: Routes): string[] {
  const sets = routes.ports.flatMap(({ producer, consumers }) => [
    ...(producer === undefined ? [] : [producer]),
    ...Object.values(consumers),
  ]);
  return [...new Set(sets.flatMap(servicesIn).filter((service) => service !== ""))];
}

function servicesIn({ kind }: RuleSet): string[] {
  if (kind.case === "tls" || kind.case === "tcp") return kind.value.rules.flatMap(({ backends }) => backends.map(({ service }) => service));
  if (kind.case !== "http") return [];
  return kind.value.rules.flatMap(({ backends, filters }) => [
    ...backends.map(({ service }) => service),
    ...[...filters, ...backends.flatMap((one) => one.filters)].flatMap((filter) =>
      filter.kind.case === "mirror" ? [filter.kind.value.backend?.service ?? ""] : [],
    ),
  ]);
}

const sameSet = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean => a.size === b.size && a.isSubsetOf(b);

/** The one before, where nothing in it changed. */
export const settled = (before: Scope | undefined, now: Scope): Scope =>
  before !== undefined &&
  sameSet(before.addresses, now.addresses) &&
  sameSet(before.routes, now.routes) &&
  sameSet(before.policies, now.policies)
    ? before
    : now;
