// What a waypoint's engine gets of everything that is compiled: itself, what is in its scope, and every policy.
import type { Compiler } from "#compile/compiler.ts";
import type { Resource } from "#compile/resource.ts";
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { StateResource } from "#engine/director.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Pod } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import { waypointKey } from "#waypoint/waypoint.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type TypeUrl } from "#xds/resource.ts";
import type { ResourceStore } from "#xds/store.ts";
import type { WaypointFeed } from "./waypoints.ts";

export type FeedOptions = {
  readonly store: ResourceStore;
  readonly compiler: Pick<Compiler, "scopeOf" | "routes">;
  /** Name of a pod's own workload. */
  readonly uidOf: (pod: Pod) => string;
  readonly adopt: Adoption;
};

export function scopedFeed({ store, compiler, uidOf, adopt }: FeedOptions): WaypointFeed {
  const of = (typeUrl: TypeUrl, names: Iterable<string>): Resource[] =>
    [...names].flatMap((name) => store.get(typeUrl, name)?.resource ?? []);

  return (pod) => {
    const name = gatewayOf(pod, adopt);
    const scope = name === null ? null : compiler.scopeOf(waypointKey({ namespace: pod.metadata.namespace, name }));
    // A workload names its policies, and one that is not known denies: all of them are there before anything asks.
    const policies = of(AUTHORIZATION_TYPE, store.names(AUTHORIZATION_TYPE));
    const addresses = of(ADDRESS_TYPE, new Set([uidOf(pod), ...(scope?.addresses ?? [])]));
    const routes = compiler.routes();
    const own = [...(scope?.routes ?? [])].flatMap((service) => routes.get(service) ?? []);
    return [
      ...policies.map((resource) => stateOf(ResourceType.AUTHORIZATION, resource)),
      ...addresses.map((resource) => stateOf(ResourceType.ADDRESS, resource)),
      ...own.map((resource) => stateOf(ResourceType.ROUTES, resource)),
    ];
  };
}

const stateOf = (type: ResourceType, { name, version, body }: Resource): StateResource => ({ type, name, version, body });
