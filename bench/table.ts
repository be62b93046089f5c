// The result of a bench: medians, ranges and ratios to `direct` of the same round, as a table and as JSON.
export type Sample = {
  readonly round: number;
  readonly scenario: string;
  readonly placement: string;
  readonly variant: string;
  readonly metric: string;
  readonly unit: string;
  readonly value: number;
};

export type Row = {
  readonly scenario: string;
  readonly placement: string;
  readonly variant: string;
  readonly metric: string;
  readonly unit: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** Median over the rounds of value / value of `direct` in the same round and placement; null for direct itself. */
  readonly ratio: number | null;
  readonly rounds: number;
};

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low = Number.NaN, high = Number.NaN] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 0 ? (low + high) / 2 : high;
}

export function rows(samples: readonly Sample[]): Row[] {
  const groups = Map.groupBy(samples, ({ scenario, placement, variant, metric }) => [scenario, placement, metric, variant].join("|"));
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const { scenario, placement, variant, metric, unit } = first;
    const direct = new Map(
      samples
        .filter((s) => s.variant === "direct" && s.scenario === scenario && s.placement === placement && s.metric === metric)
        .map((s) => [s.round, s.value]),
    );
    const ratios = group.flatMap(({ round, value }) => {
      const base = direct.get(round);
      return base === undefined || base === 0 ? [] : [value / base];
    });
    const values = group.map(({ value }) => value);
    const ratio = variant === "direct" || ratios.length === 0 ? null : median(ratios);
    return [
      {
        scenario,
        placement,
        variant,
        metric,
        unit,
        median: median(values),
        min: Math.min(...values),
        max: Math.max(...values),
        ratio,
        rounds: values.length,
      },
    ];
  });
}

const digits = (value: number): string => (value >= 1000 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

/** One line a row; what is nothing by its nature (proxies of `direct`) is left out. */
export function render(table: readonly Row[]): string {
  const head = ["scenario", "placement", "metric", "variant", "median", "min", "max", "ratio to direct"];
  const body = table
    .filter(({ max }) => max !== 0)
    .map((row) => [
      row.scenario,
      row.placement,
      `${row.metric} ${row.unit}`,
      row.variant,
      digits(row.median),
      digits(row.min),
      digits(row.max),
      row.ratio === null ? "" : row.ratio.toFixed(2),
    ]);
  const widths = head.map((title, column) => Math.max(...[head, ...body].map((line) => (line[column] ?? title).length)));
  return [head, ...body]
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
