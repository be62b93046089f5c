// What an engine should hold beside what it does hold, by version: the next delta is always the difference of the two.
import { create } from "@bufbuild/protobuf";
import { type HeldResource, ResourceType, type StateDelta, StateDeltaSchema } from "#contract/gen/engine_pb.ts";
import { bounds } from "#contract/tables.ts";

export type StateResource = { readonly type: ResourceType; readonly name: string; readonly version: string; readonly body: Uint8Array };
export type StateKey = { readonly type: ResourceType; readonly name: string };

/** A change of the desired state. With `reset`, `upsert` is all there is. */
export type StateChange = { readonly reset: boolean; readonly upsert: readonly StateResource[]; readonly remove: readonly StateKey[] };

/** Half of the largest message: leaves room for names and versions beside the bodies. */
const DELTA_BYTES = bounds.grpcMessageBytes / 2;
/** Names and versions count as this much each, so that a delta of many small or removed resources is bounded too. */
const ENTRY_BYTES = 512;

export type Ledger = {
  readonly size: number;
  /** Nothing differs from what the engine was told to hold. */
  readonly even: boolean;
  change(change: StateChange): void;
  /** Another engine, or the same one again: this is what it holds. */
  attach(held: readonly HeldResource[]): void;
  /** The next piece of the difference, null when there is none. What it names counts as held from now on. */
  take(generation: bigint): StateDelta | null;
};

const keyOf = ({ type, name }: StateKey): string => `${type}/${name}`;

/** Policies before the workloads that name them and the routes that say that they are guarded, and removals last: nothing waits for a policy that is
 * still in the queue. */
const FIRST: ReadonlySet<ResourceType> = new Set([ResourceType.AUTHORIZATION, ResourceType.ACCESS]);
const rank = (resource: StateKey, gone: boolean): number => (gone ? 2 : FIRST.has(resource.type) ? 0 : 1);

export function createLedger(): Ledger {
  const desired = new Map<string, StateResource>();
  let held = new Map<string, { readonly key: StateKey; readonly version: string }>();
  const differing = new Map<string, StateKey>();

  function mark(key: StateKey): void {
    const id = keyOf(key);
    if (desired.get(id)?.version === held.get(id)?.version) differing.delete(id);
    else differing.set(id, key);
  }

  function change({ reset, upsert, remove }: StateChange): void {
    const named = new Set(upsert.map(keyOf));
    const gone = reset ? [...desired.values()].filter((resource) => !named.has(keyOf(resource))) : remove;
    for (const key of gone) desired.delete(keyOf(key));
    for (const resource of upsert) desired.set(keyOf(resource), resource);
    for (const { type, name } of [...gone, ...upsert]) mark({ type, name });
  }

  function attach(resources: readonly HeldResource[]): void {
    held = new Map(resources.map(({ type, name, version }) => [keyOf({ type, name }), { key: { type, name }, version }]));
    differing.clear();
    for (const { type, name } of desired.values()) mark({ type, name });
    for (const { key } of held.values()) mark(key);
  }

  function take(generation: bigint): StateDelta | null {
    if (differing.size === 0) return null;
    const ordered = [...differing.entries()].sort(([a, x], [b, y]) => rank(x, !desired.has(a)) - rank(y, !desired.has(b)));
    const delta = create(StateDeltaSchema, { generation });
    let bytes = 0;
    for (const [id, key] of ordered) {
      const resource = desired.get(id);
      const cost = ENTRY_BYTES + (resource?.body.length ?? 0);
      if (bytes > 0 && bytes + cost > DELTA_BYTES) break;
      bytes += cost;
      if (resource === undefined) {
        delta.remove.push({ $typeName: "trackbed.engine.v1.ResourceKey", ...key });
        held.delete(id);
      } else {
        delta.upsert.push({ $typeName: "trackbed.engine.v1.Resource", ...resource });
        held.set(id, { key, version: resource.version });
      }
      differing.delete(id);
    }
    return delta;
  }

  return {
    get size() {
      return desired.size;
    },
    get even() {
      return differing.size === 0;
    },
    change,
    attach,
    take,
  };
}
