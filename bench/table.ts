// The figures of a bench: medians, ranges and ratios to `direct` of the same round, as rows and as text.
import { byRound, median, ratios, type Sample, type Series } from "./sample.ts";

export type Row = Series & {
  readonly unit: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** Median over the rounds of value / value of `direct` in the same round and placement; null for direct itself and where it has none. */
  readonly ratio: number | null;
  readonly rounds: number;
};

export function rows(samples: readonly Sample[]): Row[] {
  const groups = Map.groupBy(samples, ({ scenario, placement, metric, variant }) => [scenario, placement, metric, variant].join("|"));
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const { scenario, placement, variant, metric, unit } = first;
    const series = { scenario, placement, variant, metric };
    const values = group.map(({ value }) => value);
    const compared = variant === "direct" ? [] : ratios(byRound(samples, series), byRound(samples, { ...series, variant: "direct" }));
    return [
      {
        ...series,
        unit,
        median: median(values),
        min: Math.min(...values),
        max: Math.max(...values),
        ratio: compared.length === 0 ? null : median(compared),
        rounds: values.length,
      },
    ];
  });
}

/** Four digits at most: the noise is in the third. */
export const digits = (value: number): string => {
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3);
};

/** Lines with columns as wide as their widest cell. */
export function columns(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** One line a row, those of one metric together; what is nothing by its nature (proxies of `direct`) is left out. */
export function render(table: readonly Row[]): string {
  const head = ["scenario", "placement", "metric", "variant", "median", "min", "max", "ratio to direct"];
  const shown = [
    ...Map.groupBy(
      table.filter(({ max }) => max !== 0),
      (row) => [row.scenario, row.placement, row.metric].join("|"),
    ).values(),
  ].flat();
  return columns([
    head,
    ...shown.map((row) => [
      row.scenario,
      row.placement,
      `${row.metric} ${row.unit}`.trim(),
      row.variant,
      ...[row.median, row.min, row.max].map(digits),
      row.ratio === null ? "" : digits(row.ratio),
    ]),
  ]);
}
