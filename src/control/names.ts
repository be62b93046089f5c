// What the names of ServiceEntries mean: asked again before their answers expire, and told as if the entry itself had changed.
import { Resolver } from "node:dns/promises";
import { namesOf } from "#compile/service-entry.ts";
import type { ServiceEntry } from "#mesh/objects.ts";
import type { Source } from "#source/source.ts";
import { answering, type Questions } from "./answering.ts";

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
/** Names asked for at the same time, and all in all: what is beyond has no addresses, and connections to it are refused. */
const AT_ONCE = 32;
const MOST_NAMES = 4_096;
/** A name with more stands for something that balances by itself. */
const MOST_ADDRESSES = 64;

type Known = { readonly addresses: readonly string[] | null; readonly due: number; readonly failed: boolean };

/** The same changes with `resolved` filled in, and one more whenever a name means something else. */
export function resolvingNames(source: Source, { resolve, onTrouble, times }: NamesOptions): Source {
  const { leastMilliseconds, mostMilliseconds, firstMilliseconds } = { ...TIMES, ...times };

  async function ask(name: string, before: Known | undefined): Promise<Known> {
    try {
      const { addresses, ttlSeconds } = await resolve(name);
      const sorted = [...new Set(addresses)].sort().slice(0, MOST_ADDRESSES);
      const wait = Math.min(Math.max(ttlSeconds * 1000, leastMilliseconds), mostMilliseconds);
      if (before?.failed === true) onTrouble(name, null);
      return { addresses: sorted, due: Date.now() + wait, failed: false };
    } catch (error) {
      if (before?.failed !== true) onTrouble(name, error);
      return { addresses: before?.addresses ?? null, due: Date.now() + leastMilliseconds, failed: true };
    }
  }

  const questions: Questions<ServiceEntry, Known> = {
    kind: "ServiceEntry",
    of: namesOf,
    ask,
    said: (answer) => answer?.addresses ?? null,
    fill: (entry, answers) => {
      const found = namesOf(entry).flatMap((name): [string, readonly string[]][] => {
        const answer = answers(name);
        return answer === undefined || answer === "beyond" || answer.addresses === null ? [] : [[name, answer.addresses]];
      });
      return found.length === 0 ? entry : { ...entry, resolved: Object.fromEntries(found) };
    },
    bounds: { atOnce: AT_ONCE, most: MOST_NAMES, firstMilliseconds },
  };
  return answering(source, questions);
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
