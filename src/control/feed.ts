// From documents to what nodes receive: every batch of the source and every node report goes through the compiler into the xDS store.

import type { Compiler, NodeUpdate } from "#compile/compiler.ts";
import type { Compiled, ObjectFault } from "#compile/resource.ts";
import { meshError } from "#mesh/error.ts";
import type { Change, Fault, Place, Places, Source } from "#source/source.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import type { ResourceStore } from "#xds/store.ts";
import type { MeshView } from "./view.ts";

export type FeedOptions = {
  readonly source: Source;
  readonly compiler: Compiler;
  readonly store: ResourceStore;
  readonly view: MeshView;
  /** After each batch of the source is in force; awaited before the first one counts. */
  readonly onChange: (change: Change) => Promise<void>;
  readonly onCompiled: (seconds: number, recompiled: number, changed: number) => void;
};

export type Feed = {
  /** Resolves when the first, complete batch is in force: before, nobody may be told what exists. */
  readonly ready: Promise<void>;
  /** Ends when `stop` is aborted; rejects when the source or the compiler fails, which is a fault of ours. */
  readonly done: Promise<void>;
  /** A node's report; reports of one moment are compiled together. */
  report(update: NodeUpdate): void;
  /** Every node knows of the waypoints of these by now. */
  release(keys: readonly DestinationKey[]): void;
};

/** Every fault there is now, of documents and of what could not be compiled as written, in one shape. */
export const allFaults = (source: readonly Fault[], compiled: readonly ObjectFault[], places: Places): readonly Fault[] => [
  ...source,
  ...compiled.map(({ key, code, field, reason }) => ({ key, code, field, reason, ...(places.get(key) ?? NOWHERE) })),
];

/** Of an object that went away while its faults were listed. */
const NOWHERE: Place = { file: "", line: 0 };

export function startFeed(options: FeedOptions, stop: AbortSignal): Feed {
  const { compiler, store, view } = options;
  const ready = Promise.withResolvers<void>();
  const failed = Promise.withResolvers<never>();
  let reports: NodeUpdate[] = [];
  let released: DestinationKey[] = [];
  let scheduled = false;

  function compile(change: Change | null): void {
    const started = performance.now();
    const nodes = reports;
    const known = released;
    [reports, released] = [[], []];
    const compiled = compiler.apply(change, nodes, known);
    const changed = publish(store, compiled);
    options.onCompiled((performance.now() - started) / 1000, compiled.recompiled, changed);
  }

  function schedule(): void {
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      try {
        if (reports.length + released.length > 0) compile(null);
      } catch (error) {
        failed.reject(error);
      }
    });
  }

  async function follow(): Promise<void> {
    for await (const change of options.source(stop)) {
      view.apply(change);
      compile(change);
      await options.onChange(change);
      ready.resolve();
    }
    if (!stop.aborted) throw meshError("E_SOURCE_INVALID", "the source of documents ended by itself");
  }

  function report(update: NodeUpdate): void {
    reports.push(update);
    schedule();
  }

  function release(keys: readonly DestinationKey[]): void {
    released.push(...keys);
    schedule();
  }

  const done = Promise.race([follow(), failed.promise]);
  done.then(() => ready.resolve(), ready.reject);
  ready.promise.catch(() => undefined); // whoever awaits `done` hears of it
  return { ready: ready.promise, done, report, release };
}

function publish(store: ResourceStore, { deltas }: Compiled): number {
  let changed = 0;
  for (const { typeUrl, upsert, remove } of deltas) changed += store.update(typeUrl, upsert, remove);
  return changed;
}
