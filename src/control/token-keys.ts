// The keys that tokens are verified by: fetched for every RequestAuthentication that says where they are, kept fresh, and told as if it had changed.
import { type FetchedKeys, keysUrlOf, type RequestAuthentication } from "#mesh/authorization.ts";
import type { Source } from "#source/source.ts";
import { answering, type Questions } from "./answering.ts";

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
/** URLs asked at the same time, and all in all: tokens of an issuer whose URL is beyond are refused. */
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
  const times = { ...TIMES, ...options.times };

  function freshFor(seconds: number | null): number {
    if (seconds === null) return jittered(times.freshMilliseconds);
    return jittered(Math.min(Math.max(seconds * 1000, times.leastFreshMilliseconds), times.mostFreshMilliseconds));
  }

  async function ask(url: string, before: Known | undefined, askers: readonly RequestAuthentication[]): Promise<Known> {
    try {
      const got = await options.fetch(url, { etag: before?.etag ?? "", timeoutMilliseconds: timeoutOf(url, askers) });
      const keys = got.kind === "keys" ? { jwks: got.jwks, missing: "" } : (before?.keys ?? NONE);
      const etag = got.kind === "keys" ? got.etag : (before?.etag ?? "");
      if ((before?.failures ?? 0) > 0) options.onTrouble(url, null);
      return { keys, etag, at: Date.now(), due: freshFor(got.freshSeconds), failures: 0 };
    } catch (error) {
      if ((before?.failures ?? 0) === 0) options.onTrouble(url, error);
      return failed(before, error);
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

  const questions: Questions<RequestAuthentication, Known> = {
    kind: "RequestAuthentication",
    of: urlsOf,
    ask,
    said: (answer) => answer?.keys,
    fill: (one, answers) => {
      const found = urlsOf(one).flatMap((url): [string, FetchedKeys][] => {
        const answer = answers(url);
        if (answer === "beyond") return [[url, { jwks: "", missing: `more than ${MOST_URLS} URLs are asked for keys` }]];
        return answer === undefined ? [] : [[url, answer.keys]];
      });
      return found.length === 0 ? one : { ...one, keys: Object.fromEntries(found) };
    },
    bounds: { atOnce: AT_ONCE, most: MOST_URLS, firstMilliseconds: times.firstMilliseconds },
  };
  return answering(source, questions);
}

const urlsOf = ({ jwtRules }: RequestAuthentication): string[] => jwtRules.map(keysUrlOf).filter((url) => url !== "");

/** The longest that somebody wants to wait. */
const timeoutOf = (url: string, askers: readonly RequestAuthentication[]): number =>
  Math.min(
    Math.max(
      ...askers.flatMap(({ jwtRules }) => jwtRules.filter((rule) => keysUrlOf(rule) === url).map((rule) => rule.timeoutMilliseconds)),
    ),
    MOST_TIMEOUT_MILLISECONDS,
  );

/** Not all replicas of a moment at once. */
const jittered = (milliseconds: number): number => Date.now() + milliseconds * (0.9 + Math.random() * 0.2);
