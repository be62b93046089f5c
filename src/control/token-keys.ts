// The keys that tokens are verified by: fetched for every RequestAuthentication that says where they are, kept fresh, and told as if it had changed.
import { type FetchedKeys, keysUrlOf, type RequestAuthentication } from "#mesh/authorization.ts";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import type { Change, Source } from "#source/source.ts";

/** What an issuer's server said; `unchanged`: what it said last still holds. */
export type Fetched =
  | { readonly kind: "keys"; readonly jwks: string; readonly etag: string; readonly freshSeconds: number | null }
  | { readonly kind: "unchanged"; readonly freshSeconds: number | null };

/** Rejects when the keys cannot be had; the message says why, for people. */
export type FetchKeys = (url: string, options: { readonly etag: string; readonly timeoutMilliseconds: number }) => Promise<Fetched>;

export type TokenKeysOptions = {
  readonly fetch: FetchKeys;
  /** Once for each URL that cannot be fetched, and with null when it can again. */
  readonly onTrouble: (url: string, error: unknown) => void;
  readonly times?: Partial<typeof TIMES>;
};

const TIMES = {
  /** An issuer publishes a new key hours before it signs with it; what its answer says of its own age counts within these. */
  freshMilliseconds: 5 * 60_000,
  leastFreshMilliseconds: 60_000,
  mostFreshMilliseconds: 60 * 60_000,
  /** After a failure, doubled with each. */
  firstRetryMilliseconds: 5_000,
  mostRetryMilliseconds: 5 * 60_000,
  /** Keys whose issuer cannot be asked any more are good for so long: an outage of a night, not a key that was withdrawn last week. */
  staleMilliseconds: 24 * 60 * 60_000,
  /** A first batch waits this long, so that a control that restarts does not take every key away. */
  firstMilliseconds: 2_000,
};
/** URLs asked at the same time, and all in all: tokens of an issuer whose URL comes later in the list are refused. */
const AT_ONCE = 8;
const MOST_URLS = 256;
const MOST_TIMEOUT_MILLISECONDS = 30_000;

type Known = {
  readonly keys: FetchedKeys;
  readonly etag: string;
  /** When it was last had, and when it is asked for again. */
  readonly at: number;
  readonly due: number;
  readonly failures: number;
};

const NONE: FetchedKeys = { jwks: "", missing: "" };

/** The same changes with `keys` filled in, and one more whenever they are others. */
export function fetchingKeys(source: Source, options: TokenKeysOptions): Source {
  return (stop) => follow(source, options, stop);
}

const urlsOf = ({ jwtRules }: RequestAuthentication): string[] => jwtRules.map(keysUrlOf).filter((url) => url !== "");

async function* follow(source: Source, options: TokenKeysOptions, stop: AbortSignal): AsyncGenerator<Change> {
  const times = { ...TIMES, ...options.times };
  const rules = new Map<ObjectKey, RequestAuthentication>();
  const known = new Map<string, Known>();
  let latest: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };

  const everyUrl = (): string[] => [...new Set([...rules.values()].flatMap(urlsOf))].sort();
  const wanted = (): string[] => everyUrl().slice(0, MOST_URLS);
  const due = (now: number): string[] =>
    wanted()
      .filter((url) => (known.get(url)?.due ?? 0) <= now)
      .slice(0, AT_ONCE);

  const timeoutOf = (url: string): number =>
    Math.min(
      Math.max(
        ...[...rules.values()].flatMap(({ jwtRules }) =>
          jwtRules.filter((rule) => keysUrlOf(rule) === url).map((rule) => rule.timeoutMilliseconds),
        ),
      ),
      MOST_TIMEOUT_MILLISECONDS,
    );

  /** Not all replicas of a moment at once. */
  const jittered = (milliseconds: number): number => Date.now() + milliseconds * (0.9 + Math.random() * 0.2);

  function freshFor(seconds: number | null): number {
    if (seconds === null) return jittered(times.freshMilliseconds);
    return jittered(Math.min(Math.max(seconds * 1000, times.leastFreshMilliseconds), times.mostFreshMilliseconds));
  }

  async function ask(url: string): Promise<void> {
    const before = known.get(url);
    try {
      const got = await options.fetch(url, { etag: before?.etag ?? "", timeoutMilliseconds: timeoutOf(url) });
      const keys = got.kind === "keys" ? { jwks: got.jwks, missing: "" } : (before?.keys ?? NONE);
      const etag = got.kind === "keys" ? got.etag : (before?.etag ?? "");
      known.set(url, { keys, etag, at: Date.now(), due: freshFor(got.freshSeconds), failures: 0 });
      if ((before?.failures ?? 0) > 0) options.onTrouble(url, null);
    } catch (error) {
      known.set(url, failed(before, error));
      if ((before?.failures ?? 0) === 0) options.onTrouble(url, error);
    }
  }

  function failed(before: Known | undefined, error: unknown): Known {
    const failures = (before?.failures ?? 0) + 1;
    const retry = Math.min(times.firstRetryMilliseconds * 2 ** (failures - 1), times.mostRetryMilliseconds);
    const at = before?.at ?? 0;
    const usable = before !== undefined && before.keys.jwks !== "" && Date.now() - at < times.staleMilliseconds;
    const end = usable ? at + times.staleMilliseconds : Number.POSITIVE_INFINITY;
    return {
      keys: usable ? before.keys : { jwks: "", missing: error instanceof Error ? error.message : String(error) },
      // What was withdrawn would still be there, and "unchanged" no answer to it.
      etag: usable ? before.etag : "",
      at,
      due: Math.min(jittered(retry), end),
      failures,
    };
  }

  /** Resolves with the URLs that have other keys now. */
  async function askAll(urls: readonly string[]): Promise<ReadonlySet<string>> {
    const before = new Map(urls.map((url) => [url, known.get(url)?.keys]));
    await Promise.all(urls.map(ask));
    return new Set(urls.filter((url) => JSON.stringify(before.get(url)) !== JSON.stringify(known.get(url)?.keys)));
  }

  const filled = (object: MeshObject): MeshObject => (object.kind === "RequestAuthentication" ? fill(object) : object);

  function fill(one: RequestAuthentication): RequestAuthentication {
    const among = new Set(wanted());
    const found = urlsOf(one).flatMap((url): [string, FetchedKeys][] => {
      if (!among.has(url)) return [[url, { jwks: "", missing: `more than ${MOST_URLS} URLs are asked for keys` }]];
      const keys = known.get(url)?.keys;
      return keys === undefined ? [] : [[url, keys]];
    });
    return found.length === 0 ? one : { ...one, keys: Object.fromEntries(found) };
  }

  function note({ reset, put, remove }: Change): void {
    if (reset) rules.clear();
    for (const key of remove) rules.delete(key);
    for (const object of put) if (object.kind === "RequestAuthentication") rules.set(keyOf(object), object);
    const still = new Set(wanted());
    for (const url of known.keys()) if (!still.has(url)) known.delete(url);
  }

  const changes = source(stop)[Symbol.asyncIterator]();
  let asking: Promise<ReadonlySet<string>> | null = null;
  try {
    let next = changes.next();
    for (;;) {
      const urls = asking === null ? due(Date.now()) : [];
      if (urls.length > 0) asking = askAll(urls);
      const pause = until(asking === null ? Math.min(...wanted().map((url) => known.get(url)?.due ?? 0)) : Number.POSITIVE_INFINITY);
      const came = await Promise.race([next, pause.promise, ...(asking === null ? [] : [asking])]).finally(pause.cancel);
      if (came === null) continue;
      if ("size" in came) {
        asking = null;
        const put = [...rules.values()].filter((one) => urlsOf(one).some((url) => came.has(url))).map(fill);
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
    for (let urls = due(Date.now()); urls.length > 0 && Date.now() < end; urls = due(Date.now())) {
      const late = until(end);
      await Promise.race([askAll(urls), late.promise]).finally(late.cancel);
    }
  }
}

/** setTimeout takes no more than 2^31 ms. */
const LONGEST_MILLISECONDS = 2 ** 31 - 1;

/** Resolves with null at a time; never at infinity. */
function until(time: number): { readonly promise: Promise<null>; cancel(): void } {
  const { promise, resolve } = Promise.withResolvers<null>();
  const wait = Math.min(Math.max(0, time - Date.now()), LONGEST_MILLISECONDS);
  const timer = Number.isFinite(time) ? setTimeout(() => resolve(null), wait) : undefined;
  return { promise, cancel: () => clearTimeout(timer) };
}
