// What the API server's lists and events put in force, all faults considered: pure bookkeeping from objects to one Change.
import { isDeepStrictEqual } from "node:util";
import type { MeshObject, ObjectKey } from "#mesh/objects.ts";
import { formatPath } from "../project/problem.ts";
import { projectDocument } from "../project/project.ts";
import type { Change, Fault, Place, Places } from "../source.ts";
import type { Raw } from "./list.ts";
import { reduce } from "./reduce.ts";
import type { Step } from "./reflector.ts";
import { objectPath, pathOfKey, type Resource } from "./resources.ts";

/** One object as it was read; null for `object` when nothing of it can be in force. */
export type Reading = { readonly key: ObjectKey; readonly version: string; readonly object: MeshObject | null };

export type Holdings = {
  /** Makes of an object what is kept of it, and notes what is wrong with it. An object of the version that is held costs nothing. */
  read(resource: Resource, raw: Raw): Reading;
  apply(resource: Resource, step: Step<Reading>): void;
  /** Everything that changed since the last call, as one; null when nothing did or not every resource was listed yet. The first is a reset. */
  take(): Change | null;
};

type Held = { readonly version: string; readonly object: MeshObject | null };

export function createHoldings(resources: readonly Resource[]): Holdings {
  const byResource = new Map(resources.map((resource) => [resource, new Map<ObjectKey, Held>()]));
  const missing = new Set(resources);
  const faults = new Map<ObjectKey, readonly Fault[]>();
  let put = new Map<ObjectKey, MeshObject>();
  let remove = new Set<ObjectKey>();
  let faultsMoved = false;
  let given = false;

  const heldOf = (resource: Resource): Map<ObjectKey, Held> => byResource.get(resource) ?? new Map();

  function read(resource: Resource, raw: Raw): Reading {
    const { name, namespace = "", resourceVersion: version } = raw.metadata;
    const key: ObjectKey = `${resource.kind}/${namespace}/${name}`;
    const held = heldOf(resource).get(key);
    if (held?.version === version) return { key, version, object: held.object };
    const { object, standIn, problems } = projectDocument(reduce(resource, raw));
    noteFaults(
      key,
      problems.map(({ code, path, reason }) => {
        return { code, key, file: objectPath(resource, namespace, name), line: 0, field: formatPath(path), reason };
      }),
    );
    return { key, version, object: object ?? lastValid(held, raw.metadata.uid) ?? standIn };
  }

  function noteFaults(key: ObjectKey, found: readonly Fault[]): void {
    if (found.length === 0 && !faults.has(key)) return;
    faultsMoved = true;
    if (found.length === 0) faults.delete(key);
    else faults.set(key, found);
  }

  function set(held: Map<ObjectKey, Held>, { key, version, object }: Reading): void {
    const before = held.get(key)?.object ?? null;
    if (before !== null && object !== null && isDeepStrictEqual(before, object)) {
      held.set(key, { version, object: before }); // heartbeats and other people's conditions are no change
      return;
    }
    held.set(key, { version, object });
    if (object === null) drop(key, before);
    else {
      put.set(key, object);
      remove.delete(key);
    }
  }

  function drop(key: ObjectKey, before: MeshObject | null): void {
    put.delete(key);
    if (before !== null) remove.add(key);
  }

  function forget(held: Map<ObjectKey, Held>, key: ObjectKey): void {
    const before = held.get(key)?.object ?? null;
    held.delete(key);
    drop(key, before);
    noteFaults(key, []);
  }

  function apply(resource: Resource, step: Step<Reading>): void {
    const held = heldOf(resource);
    if (step.kind === "changed") {
      for (const { gone, item } of step.events) {
        if (gone) forget(held, item.key);
        else set(held, item);
      }
      return;
    }
    missing.delete(resource);
    const items = step.kind === "listed" ? step.items : [];
    const named = new Set(items.map(({ key }) => key));
    for (const key of [...held.keys()]) if (!named.has(key)) forget(held, key); // deleted while nobody watched
    for (const item of items) set(held, item);
  }

  function take(): Change | null {
    if (missing.size > 0 || (given && put.size === 0 && remove.size === 0 && !faultsMoved)) return null;
    const change: Change = { reset: !given, put: [...put.values()], remove: [...remove], faults: [...faults.values()].flat(), places };
    given = true;
    faultsMoved = false;
    put = new Map();
    remove = new Set();
    return change;
  }

  const places: Places = {
    get: (key): Place | undefined => {
      const resource = resources.find(({ kind }) => key.startsWith(`${kind}/`));
      return resource !== undefined && heldOf(resource).has(key) ? { file: pathOfKey(resource, key), line: 0 } : undefined;
    },
  };

  return { read, apply, take };
}

/** The last valid version of the same object; a new object of the same name has none. */
const lastValid = (held: Held | undefined, uid: string): MeshObject | null => (held?.object?.metadata.uid === uid ? held.object : null);
