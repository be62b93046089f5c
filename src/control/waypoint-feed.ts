// What a waypoint's engine gets of everything that is compiled.
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { StateResource } from "#engine/director.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, RESOURCE_TYPES, type TypeUrl } from "#xds/resource.ts";
import type { ResourceStore } from "#xds/store.ts";
import type { WaypointFeed } from "./waypoints.ts";

const TYPES: Readonly<Record<TypeUrl, ResourceType>> = {
  [ADDRESS_TYPE]: ResourceType.ADDRESS,
  [AUTHORIZATION_TYPE]: ResourceType.AUTHORIZATION,
};

export function everything(store: ResourceStore): WaypointFeed {
  return function* () {
    for (const typeUrl of RESOURCE_TYPES) for (const name of store.names(typeUrl)) yield* of(store, typeUrl, name);
  };
}

function* of(store: ResourceStore, typeUrl: TypeUrl, name: string): Iterable<StateResource> {
  const found = store.get(typeUrl, name)?.resource;
  if (found !== undefined) yield { type: TYPES[typeUrl], name: found.name, version: found.version, body: found.body };
}
