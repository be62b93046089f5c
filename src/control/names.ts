// What the names of ServiceEntries mean: asked again before their answers expire, and told as if the entry itself had changed.
import { Resolver } from "node:dns/promises";
import { namesOf } from "#compile/service-entry.ts";
import { keyOf, type MeshObject, type ObjectKey, type ServiceEntry } from "#mesh/objects.ts";
import type { Change, Source } from "#source/source.ts";

export type Answer = { readonly addresses: readonly string[]; readonly ttlSeconds: number };

/** Empty when the name has no address; rejects when that is not known. */
export type Resolve = (name: string) => Promise<Answer>;

export type NamesOptions = {
  readonly resolve: Resolve;
  /** Once for each name that cannot be asked for, and with null when it can again. What it meant before stays. */
  readonly onTrouble: (name: string, error: unknown) => void;
  readonly times?: Partial<typeof TIMES>;
};

const TIMES = {
  /** Answers of a second are served by others too; asking every second is no service to anybody. */
  leastMilliseconds: 5_000,
  mostMilliseconds: 60_000,
  /** A first batch waits this long, so that nodes which return are not told of endpoints that are only not known yet. */
  firstMilliseconds: 2_000,
};
/** Names asked for at the same time, and all in all: what comes later in the list has no addresses, and connections to it are refused. */
const AT_ONCE = 32;
const MOST_NAMES = 4_096;
/** A name with more stands for something that balances by itself. */
const MOST_ADDRESSES = 64;

type Known = { readonly addresses: readonly string[] | null; readonly due: number; readonly failed: boolean };

/** The same changes with `resolved` filled in, and one more whenever a name means something else. */
export function resolvingNames(source: Source, options: NamesOptions): Source {
  return (stop) => follow(source, options, stop);
}

async function* follow(source: Source, options: NamesOptions, stop: AbortSignal): AsyncGenerator<Change> {
  const times = { ...TIMES, ...options.times };
  const entries = new Map<ObjectKey, ServiceEntry>();
  const known = new Map<string, Known>();
  let latest: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };

  const wanted = (): string[] => [...new Set([...entries.values()].flatMap(namesOf))].slice(0, MOST_NAMES);
  const dueNames = (now: number): string[] =>
    wanted()
      .filter((name) => (known.get(name)?.due ?? 0) <= now)
      .slice(0, AT_ONCE);

  /** Resolves with the names that mean something else now. */
  async function ask(names: readonly string[]): Promise<ReadonlySet<string>> {
    const changed = new Set<string>();
    await Promise.all(
      names.map(async (name) => {
        const before = known.get(name);
        try {
          const { addresses, ttlSeconds } = await options.resolve(name);
          const sorted = [...new Set(addresses)].sort().slice(0, MOST_ADDRESSES);
          const wait = Math.min(Math.max(ttlSeconds * 1000, times.leastMilliseconds), times.mostMilliseconds);
          known.set(name, { addresses: sorted, due: Date.now() + wait, failed: false });
          if (JSON.stringify(before?.addresses) !== JSON.stringify(sorted)) changed.add(name);
          if (before?.failed === true) options.onTrouble(name, null);
        } catch (error) {
          known.set(name, { addresses: before?.addresses ?? null, due: Date.now() + times.leastMilliseconds, failed: true });
          if (before?.failed !== true) options.onTrouble(name, error);
        }
      }),
    );
    return changed;
  }

  const filled = (object: MeshObject): MeshObject => (object.kind === "ServiceEntry" ? fill(object) : object);
  const fill = (entry: ServiceEntry): ServiceEntry => {
    const found = namesOf(entry).flatMap((name): [string, readonly string[]][] => {
      const addresses = known.get(name)?.addresses ?? null;
      return addresses === null ? [] : [[name, addresses]];
    });
    return found.length === 0 ? entry : { ...entry, resolved: Object.fromEntries(found) };
  };

  function note({ reset, put, remove }: Change): void {
    if (reset) entries.clear();
    for (const key of remove) entries.delete(key);
    for (const object of put) if (object.kind === "ServiceEntry") entries.set(keyOf(object), object);
    const still = new Set(wanted());
    for (const name of known.keys()) if (!still.has(name)) known.delete(name);
  }

  const changes = source(stop)[Symbol.asyncIterator]();
  let asking: Promise<ReadonlySet<string>> | null = null;
  try {
    let next = changes.next();
    for (;;) {
      const due = asking === null ? dueNames(Date.now()) : [];
      if (due.length > 0) asking = ask(due);
      const pause = until(asking === null ? Math.min(...wanted().map((name) => known.get(name)?.due ?? 0)) : Number.POSITIVE_INFINITY);
      const came = await Promise.race([next, pause.promise, ...(asking === null ? [] : [asking])]).finally(pause.cancel);
      if (came === null) continue;
      if ("size" in came) {
        asking = null;
        const put = [...entries.values()].filter((entry) => namesOf(entry).some((name) => came.has(name))).map(fill);
        if (put.length > 0) yield { reset: false, put, remove: [], ...latest };
        continue;
      }
      if (came.done === true) return;
      next = changes.next();
      const change = came.value;
      latest = { faults: change.faults, places: change.places };
      note(change);
      if (change.reset) await firstAnswers();
      yield { ...change, put: change.put.map(filled) };
    }
  } finally {
    await changes.return?.();
  }

  async function firstAnswers(): Promise<void> {
    const end = Date.now() + times.firstMilliseconds;
    for (let due = dueNames(Date.now()); due.length > 0 && Date.now() < end; due = dueNames(Date.now())) {
      const late = until(end);
      await Promise.race([ask(due), late.promise]).finally(late.cancel);
    }
  }
}

/** Resolves with null at a time; never at infinity. */
function until(time: number): { readonly promise: Promise<null>; cancel(): void } {
  const { promise, resolve } = Promise.withResolvers<null>();
  const timer = Number.isFinite(time) ? setTimeout(() => resolve(null), Math.max(0, time - Date.now())) : undefined;
  return { promise, cancel: () => clearTimeout(timer) };
}

const ASK_MILLISECONDS = 3_000;
const NOTHING = ["ENOTFOUND", "ENODATA"];

/** By the name servers that this process has, in both families. */
export function resolveByDns(): Resolve {
  const resolver = new Resolver({ timeout: ASK_MILLISECONDS, tries: 2 });
  const none = (error: unknown): [] => {
    if (error instanceof Error && "code" in error && NOTHING.includes(String(error.code))) return [];
    throw error;
  };
  return async (name) => {
    const found = (
      await Promise.all([resolver.resolve4(name, { ttl: true }).catch(none), resolver.resolve6(name, { ttl: true }).catch(none)])
    ).flat();
    return {
      addresses: found.map(({ address }) => address),
      ttlSeconds: Math.min(...found.map(({ ttl }) => ttl), TIMES.mostMilliseconds / 1000),
    };
  };
}
