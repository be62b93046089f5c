// Interleaved rounds: every scenario through every variant, then the same again the other way round.
import type { Lab } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import type { Flags } from "./flags.ts";
import { answers, type Histogram } from "./measure.ts";
import type { Sample } from "./sample.ts";
import { type Scenario, scenarios } from "./scenario.ts";
import { placements, startVariants, type Variant } from "./variant.ts";

export type Latencies = { readonly scenario: string; readonly placement: string; readonly variant: string; readonly histogram: Histogram };
export type Results = { readonly samples: Sample[]; readonly latencies: Latencies[] };
type Run = { readonly round: number; readonly scenario: Scenario; readonly variant: Variant };

/** Fills `results` as it goes, so that a failure leaves what was measured before it. */
export async function measure(lab: Lab, flags: Flags, results: Results, progress: (line: string) => void): Promise<void> {
  const variants = (await startVariants(lab, flags.variants)).filter(({ placement }) => flags.placements.has(placement));
  for (const variant of variants) await until(`${variant.name} ${placements[variant.placement]} answers`, () => answers(variant));
  const runs = plan(flags, variants);
  const started = performance.now();
  for (const [index, { round, scenario, variant }] of runs.entries()) {
    const left = index === 0 ? "" : `, ${minutes(((performance.now() - started) / index) * (runs.length - index))} left`;
    progress(`${index + 1} of ${runs.length}${left}: round ${round}, ${scenario.name}, ${variant.name} ${placements[variant.placement]}`);
    const { measured, histogram } = await scenario.measure(variant, flags.size);
    const run = { scenario: scenario.id, placement: variant.placement, variant: variant.name };
    results.samples.push(...measured.map((one) => ({ round, ...run, ...one })));
    if (histogram.length > 0) results.latencies.push({ ...run, histogram });
  }
}

function plan({ rounds, scenarios: wanted }: Flags, variants: readonly Variant[]): Run[] {
  const chosen = scenarios.filter(({ id }) => wanted.has(id));
  const runs = (round: number, scenario: Scenario, order: readonly Variant[]): Run[] =>
    order
      .filter(({ name, placement }) => scenario.variants.includes(name) && (scenario.placements ?? [placement]).includes(placement))
      .map((variant) => ({ round, scenario, variant }));
  return [
    ...chosen.filter(({ once }) => once).flatMap((scenario) => runs(1, scenario, variants)),
    ...Array.from({ length: rounds }, (_, index) => index + 1).flatMap((round) =>
      chosen
        .filter(({ once }) => !once)
        // Every other round backwards, so that nobody always runs on the cache that somebody else warmed.
        .flatMap((scenario) => runs(round, scenario, round % 2 === 0 ? variants.toReversed() : variants)),
    ),
  ];
}

const minutes = (ms: number): string => `${Math.floor(ms / 60_000)}:${String(Math.floor(ms / 1000) % 60).padStart(2, "0")}`;
