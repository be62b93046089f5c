// One figure of one run, and figures of several rounds compared round by round: only those were measured under the same conditions.
import type { Placement, VariantName } from "./variant.ts";

export type Sample = {
  readonly round: number;
  /** Scenario.id. */
  readonly scenario: string;
  readonly placement: Placement;
  readonly variant: VariantName;
  readonly metric: string;
  readonly unit: string;
  readonly value: number;
};

/** What a series of samples has in common. */
export type Series = Omit<Sample, "round" | "unit" | "value">;

/** The values of a series by round. */
export function byRound(samples: readonly Sample[], { scenario, placement, variant, metric }: Series): ReadonlyMap<number, number> {
  const own = samples.filter((s) => s.scenario === scenario && s.placement === placement && s.variant === variant && s.metric === metric);
  return new Map(own.map(({ round, value }) => [round, value]));
}

/** value / base of each round that has both. */
export const ratios = (values: ReadonlyMap<number, number>, bases: ReadonlyMap<number, number>): number[] =>
  pairs(values, bases).flatMap(([value, base]) => (base === 0 ? [] : [value / base]));

/** value - base of each round that has both. */
export const differences = (values: ReadonlyMap<number, number>, bases: ReadonlyMap<number, number>): number[] =>
  pairs(values, bases).map(([value, base]) => value - base);

function pairs(values: ReadonlyMap<number, number>, bases: ReadonlyMap<number, number>): [number, number][] {
  return [...values].flatMap(([round, value]) => {
    const base = bases.get(round);
    return base === undefined ? [] : [[value, base] as [number, number]];
  });
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low = Number.NaN, high = Number.NaN] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 0 ? (low + high) / 2 : high;
}
