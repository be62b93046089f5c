// What Trackbed is wanted to reach, from wanted.json, held against what was measured.
import { readFileSync } from "node:fs";
import { z } from "zod";
import { byRound, differences, median, ratios, type Sample } from "./sample.ts";
import { columns, digits } from "./table.ts";
import { variantNames } from "./variant.ts";

const place = {
  scenario: z.string(),
  placement: z.enum(["across", "local"]),
  metric: z.string(),
  /** Of requests, not of the mesh's bytes: the HTTP half alone, or a waypoint with tunnels on both sides. */
  variant: z.enum(["l7", "waypoint"]).optional(),
};
const bound = z.union([z.object({ most: z.number() }), z.object({ least: z.number() })]);
const comparison = z.discriminatedUnion("compare", [
  /** With the same figure of another variant in the same round. */
  z.object({ ...place, compare: z.literal("ratio"), with: z.enum(variantNames) }),
  z.object({ ...place, compare: z.literal("difference"), with: z.enum(variantNames) }),
  /** With the least that any of these has in the same round. */
  z.object({ ...place, compare: z.literal("best"), with: z.array(z.enum(variantNames)) }),
  /** With Trackbed's own figure in another scenario of the same round. */
  z.object({ ...place, compare: z.literal("scenario"), with: z.string() }),
  z.object({ ...place, compare: z.literal("value"), with: z.null() }),
]);
const entry = comparison.and(bound);

export type Wanted = z.infer<typeof entry>;
export type Verdict = {
  readonly wanted: Wanted;
  /** Median and range over the rounds; null when it was not measured. */
  readonly found: { readonly median: number; readonly min: number; readonly max: number } | null;
  readonly met: boolean | null;
};

export const readWanted = (): Wanted[] => z.array(entry).parse(JSON.parse(readFileSync(new URL("wanted.json", import.meta.url), "utf8")));

export function judge(wanted: readonly Wanted[], samples: readonly Sample[]): Verdict[] {
  return wanted.map((each) => {
    const values = found(each, samples);
    if (values.length === 0) return { wanted: each, found: null, met: null };
    const middle = median(values);
    const met = "most" in each ? middle <= each.most : middle >= each.least;
    return { wanted: each, found: { median: middle, min: Math.min(...values), max: Math.max(...values) }, met };
  });
}

function found(wanted: Wanted, samples: readonly Sample[]): number[] {
  const { scenario, placement, metric } = wanted;
  const own = { scenario, placement, metric, variant: wanted.variant ?? ("trackbed" as const) };
  const values = byRound(samples, own);
  switch (wanted.compare) {
    case "value":
      return [...values.values()];
    case "scenario":
      return ratios(values, byRound(samples, { ...own, scenario: wanted.with }));
    case "ratio":
      return ratios(values, byRound(samples, { ...own, variant: wanted.with }));
    case "best": {
      const others = wanted.with.map((variant) => byRound(samples, { ...own, variant }));
      return ratios(values, least(others));
    }
    case "difference":
      return differences(values, byRound(samples, { ...own, variant: wanted.with }));
  }
}

/** Of rounds that all of them have. */
function least(all: readonly ReadonlyMap<number, number>[]): ReadonlyMap<number, number> {
  const [first = new Map<number, number>(), ...rest] = all;
  return new Map(
    [...first].flatMap(([round, value]) => {
      const values = rest.map((other) => other.get(round));
      return values.some((one) => one === undefined) ? [] : [[round, Math.min(value, ...values.filter((one) => one !== undefined))]];
    }),
  );
}

const comparedWith = (wanted: Wanted): string => {
  if (wanted.compare === "value") return "";
  if (wanted.compare === "best") return `of the better of ${wanted.with.join(" and ")}`;
  return wanted.compare === "difference" ? `over ${wanted.with}` : `of ${wanted.with}`;
};

/** One line a wish; what was not measured is left out, and counted in the last line. */
export function renderVerdicts(verdicts: readonly Verdict[]): string {
  const measured = verdicts.filter(({ met }) => met !== null);
  const lines = measured.map(({ wanted, found, met }) => [
    wanted.scenario,
    wanted.placement,
    `${wanted.variant === undefined ? "" : `${wanted.variant}: `}${wanted.metric} ${comparedWith(wanted)}`.trim(),
    "most" in wanted ? `≤ ${wanted.most}` : `≥ ${wanted.least}`,
    found === null ? "" : digits(found.median),
    found === null ? "" : `${digits(found.min)} to ${digits(found.max)}`,
    met ? "yes" : "NO",
  ]);
  const missed = measured.filter(({ met }) => met === false).length;
  const skipped = verdicts.length - measured.length;
  const last = `${measured.length - missed} of ${measured.length} met${skipped > 0 ? `, ${skipped} not measured` : ""}`;
  return `${columns([["scenario", "placement", "Trackbed's", "wanted", "found", "range", "met"], ...lines])}\n${last}`;
}
