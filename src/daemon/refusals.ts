// What the engine refused: shown to people until it is mended, and told to control once on each of its streams.
import type { Rejected } from "#contract/gen/engine_pb.ts";
import { type ErrorCode, errors } from "#contract/tables.ts";
import type { Director } from "#engine/director.ts";
import type { Rejection } from "#xds/resource.ts";

export type Refusals = {
  /** What the engine refused and is still wanted in that version. */
  all(): Iterable<Rejected>;
  /** The engine acknowledged, and refused these. */
  applied(rejected: readonly Rejected[]): void;
  /** Whatever is waited for will not come from this engine. */
  detached(): void;
  /** Control will hear of everything again. */
  streamEnded(): void;
  /** Resolves, as soon as the engine acknowledged all that it was given, with what control was not told yet. */
  untold(): Promise<readonly Rejection[]>;
};

/** The engine applies in milliseconds. One that does not answer must not keep the node from hearing what control says next. */
const ANSWER_MS = 2000;

export function createRefusals(options: {
  readonly director: () => Pick<Director, "settled">;
  readonly versionOf: (resource: Rejected) => string | undefined;
  readonly answerMilliseconds?: number;
}): Refusals {
  const refused = new Map<string, Rejected>();
  const told = new Set<string>();
  let ring: () => void = () => undefined;

  /** What was replaced or removed since is nobody's concern. */
  function forget(): void {
    for (const [key, resource] of refused) if (options.versionOf(resource) !== resource.version) refused.delete(key);
  }

  async function answer(): Promise<void> {
    const late = AbortSignal.timeout(options.answerMilliseconds ?? ANSWER_MS);
    const given = new Promise<void>((resolve) => late.addEventListener("abort", () => resolve(), { once: true }));
    while (!options.director().settled && !late.aborted) {
      const rung = new Promise<void>((resolve) => {
        ring = resolve;
      });
      await Promise.race([rung, given]);
    }
  }

  return {
    all: () => {
      forget();
      return refused.values();
    },
    applied: (rejected) => {
      for (const resource of rejected) refused.set(`${resource.type}/${resource.name}`, resource);
      forget();
      ring();
    },
    detached: () => ring(),
    streamEnded: () => told.clear(),
    untold: async () => {
      await answer();
      forget();
      const news = [...refused.values()].filter((resource) => !told.has(idOf(resource)));
      for (const resource of news) told.add(idOf(resource));
      return news.map(({ name, code, reason }) => ({ name, code: knownCode(code), reason: `${reason} (${code})` }));
    },
  };
}

const idOf = ({ type, name, version }: Rejected): string => `${type}/${name}/${version}`;

/** An engine of another version may have codes of its own; its reason is told all the same. */
const knownCode = (code: string): ErrorCode => (Object.hasOwn(errors, code) ? (code as ErrorCode) : "E_SOURCE_INVALID");
