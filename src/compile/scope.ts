// What the engine of a waypoint needs of everything that is compiled.
import type { Routes, RuleSet } from "#contract/gen/route_pb.ts";
import type { Scope } from "#waypoint/waypoint.ts";

export type ScopeInputs = {
  /** "namespace/hostname" of the waypoint's own Service. */
  readonly own: string;
  /** Services that it serves, and where their routes send. */
  readonly served: readonly { readonly service: string; readonly backends: readonly string[] }[];
  /** Names of the workloads that are endpoints of a service, by the service's name. */
  readonly endpointsOf: (service: string) => Iterable<string>;
};

export function scopeOf({ own, served, endpointsOf }: ScopeInputs): Scope {
  const routes = new Set(served.map(({ service }) => service));
  const services = new Set([own, ...routes, ...served.flatMap(({ backends }) => backends)]);
  const addresses = new Set(services);
  for (const service of services) if (service !== own) for (const name of endpointsOf(service)) addresses.add(name);
  return { addresses, routes };
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
  before !== undefined && sameSet(before.addresses, now.addresses) && sameSet(before.routes, now.routes) ? before : now;
