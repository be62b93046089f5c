// The command line of the bench: a closed set, and every wrong word is named with the words that would be right.
import { parseArgs } from "node:util";
import type { Size } from "./measure.ts";
import { scenarios } from "./scenario.ts";
import { type Placement, placements, type VariantName, variantNames } from "./variant.ts";

export const HELP = `usage: node bench/run.ts [--scenario NAME]... [--variant NAME]... [--placement NAME] [--rounds N] [--quick]
                         [--directory DIR] [-o table|json]

--scenario NAME   only this one, may be repeated: ${scenarios.map(({ id }) => id).join(", ")}
--variant NAME    only this one and direct, may be repeated: ${variantNames.join(", ")}
--placement NAME  ${Object.keys(placements).join(" or ")} (default: both)
--rounds N        interleaved rounds, 5
--quick           small runs: shows that the bench works, not how fast anything is
--directory DIR   where samples (JSON) and latency histograms (SVG) go, .cache/bench
-o table|json     what is printed at the end`;

export type Flags = {
  readonly rounds: number;
  readonly size: Size;
  readonly scenarios: ReadonlySet<string>;
  readonly variants: ReadonlySet<VariantName>;
  readonly placements: ReadonlySet<Placement>;
  readonly directory: string;
  readonly output: "table" | "json";
};

export class UsageError extends Error {}

/** null = help was asked for. */
export function parseFlags(args: readonly string[]): Flags | null {
  const options = {
    scenario: { type: "string", multiple: true, default: [] as string[] },
    variant: { type: "string", multiple: true, default: [] as string[] },
    placement: { type: "string", multiple: true, default: [] as string[] },
    rounds: { type: "string", default: "5" },
    quick: { type: "boolean", default: false },
    directory: { type: "string", default: ".cache/bench" },
    output: { type: "string", short: "o", default: "table" },
    help: { type: "boolean", short: "h", default: false },
  } as const;
  const values = parsed(() => parseArgs({ args: [...args], options }).values);
  if (values.help) return null;
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) throw new UsageError(`--rounds ${values.rounds}: a number from 1 to 1000`);
  const [output] = chosen("-o", [values.output], ["table", "json"] as const);
  const variants = chosen("--variant", values.variant, variantNames);
  return {
    rounds,
    size: values.quick ? "quick" : "full",
    scenarios: new Set(
      chosen(
        "--scenario",
        values.scenario,
        scenarios.map(({ id }) => id),
      ),
    ),
    // Without direct there is nothing to compare with.
    variants: new Set<VariantName>(["direct", ...variants]),
    placements: new Set(chosen("--placement", values.placement, Object.keys(placements) as Placement[])),
    directory: values.directory,
    output: output ?? "table",
  };
}

function parsed<T>(parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** The given words, all of them known; every known word when none is given. */
function chosen<T extends string>(flag: string, words: readonly string[], known: readonly T[]): readonly T[] {
  const found = words.map((word) => known.find((each) => each === word));
  const wrong = words.find((_, index) => found[index] === undefined);
  if (wrong !== undefined) throw new UsageError(`${flag} ${JSON.stringify(wrong)}: one of ${known.join(", ")}`);
  return words.length === 0 ? known : found.filter((word) => word !== undefined);
}
