// Says from when on a service may be kept to its waypoint: as soon as every node that is attached has taken in that the service has one. Before, its
// nodes would still send to the pods themselves, and be refused there.
import type { DestinationKey } from "#waypoint/destination.ts";
import { ADDRESS_TYPE } from "#xds/resource.ts";
import type { StreamInfo } from "#xds/server.ts";
import type { ResourceStore } from "#xds/store.ts";

export type ExclusivityOptions = {
  readonly store: Pick<ResourceStore, "watch" | "revision">;
  readonly streams: () => readonly Pick<StreamInfo, "types">[];
  /** Services that wait. */
  readonly awaiting: () => readonly DestinationKey[];
  readonly release: (keys: readonly DestinationKey[]) => void;
  readonly times?: Partial<typeof TIMES>;
};

export type Exclusivity = {
  /** Something was compiled. */
  look(): void;
  close(): void;
};

const TIMES = {
  pollMilliseconds: 100,
  /** Nodes of another replica are told at the same moment, and nobody here hears of their answers. */
  leastMilliseconds: 2_000,
  /** A node that does not answer for so long is on its own: the policies of everybody else do not wait for it. */
  mostMilliseconds: 60_000,
};

type Waiting = {
  /** Of the addresses, when it began to wait. */
  readonly revision: number;
  readonly since: number;
};

export function createExclusivity({ store, streams, awaiting, release, ...options }: ExclusivityOptions): Exclusivity {
  const times = { ...TIMES, ...options.times };
  const waiting = new Map<DestinationKey, Waiting>();
  let addresses = store.revision();
  let timer: NodeJS.Timeout | undefined;
  const unwatch = store.watch(({ typeUrl }) => {
    if (typeUrl === ADDRESS_TYPE) addresses = store.revision();
  });

  /** The oldest that some node is still at. */
  const acknowledged = (): number =>
    Math.min(...streams().map(({ types }) => types().get(ADDRESS_TYPE)?.acknowledged ?? 0), Number.POSITIVE_INFINITY);

  function look(): void {
    clearTimeout(timer);
    timer = undefined;
    const now = performance.now();
    const keys = new Set(awaiting());
    for (const key of waiting.keys()) if (!keys.has(key)) waiting.delete(key);
    for (const key of keys) if (!waiting.has(key)) waiting.set(key, { revision: addresses, since: now });
    if (waiting.size === 0) return;
    const told = acknowledged();
    const ready = [...waiting].flatMap(([key, { revision, since }]) => {
      const waited = now - since;
      const done = (told >= revision && waited >= times.leastMilliseconds) || waited >= times.mostMilliseconds;
      return done ? [key] : [];
    });
    for (const key of ready) waiting.delete(key);
    if (ready.length > 0)
      release(ready); // and so it is looked at again
    else timer = setTimeout(look, times.pollMilliseconds);
  }

  return {
    look,
    close: () => {
      clearTimeout(timer);
      unwatch();
    },
  };
}
