import assert from "node:assert/strict";
import { test } from "node:test";
import { parseFlags, UsageError } from "./flags.ts";
import { merge, quantile, svg } from "./histogram.ts";
import { median, type Sample } from "./sample.ts";
import { scenarios } from "./scenario.ts";
import { rows } from "./table.ts";
import type { VariantName } from "./variant.ts";
import { judge, readWanted, renderVerdicts, type Wanted } from "./wanted.ts";

const sample = (round: number, variant: VariantName, value: number, scenario = "bulk-1"): Sample => ({
  round,
  scenario,
  placement: "across",
  variant,
  metric: "CPU",
  unit: "s/GB",
  value,
});

/** The machine is slow in round 2, for everybody alike. */
const rounds = [
  sample(1, "direct", 1),
  sample(1, "trackbed", 2),
  sample(2, "direct", 10),
  sample(2, "trackbed", 20),
  sample(3, "direct", 4),
  sample(3, "trackbed", 8),
];

test("the median of an even count is the mean of the middle two", () => {
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([3, 1, 2]), 2);
});

test("a ratio compares with direct of the same round, not with direct's median", () => {
  const table = rows(rounds);
  const trackbed = table.find(({ variant }) => variant === "trackbed");
  assert.equal(trackbed?.ratio, 2);
  assert.equal(trackbed?.median, 8);
  assert.equal(table.find(({ variant }) => variant === "direct")?.ratio, null);
});

test("the better of several is that of the same round, and rounds that lack one of them do not count", () => {
  const others = [sample(1, "nginx-http", 4), sample(1, "haproxy-http", 8), sample(2, "nginx-http", 40), sample(2, "haproxy-http", 20)];
  const own = [sample(1, "l7", 5), sample(2, "l7", 25), sample(3, "l7", 1)];
  const wish = (most: number): Wanted => ({
    scenario: "bulk-1",
    placement: "across",
    metric: "CPU",
    variant: "l7",
    compare: "best",
    with: ["nginx-http", "haproxy-http"],
    most,
  });
  const [met, missed] = judge([wish(1.25), wish(1.24)], [...others, sample(3, "nginx-http", 100), ...own]);
  assert.deepEqual([met?.found, met?.met, missed?.met], [{ median: 1.25, min: 1.25, max: 1.25 }, true, false]);
  assert.match(renderVerdicts(met === undefined ? [] : [met]), /l7: CPU of the better of nginx-http and haproxy-http/);
});

test("a wish is met by its median, missed on the other side of it, and neither when it was not measured", () => {
  const wish = (most: number, scenario = "bulk-1"): Wanted => ({
    scenario,
    placement: "across",
    metric: "CPU",
    compare: "ratio",
    with: "direct",
    most,
  });
  const verdicts = judge([wish(2), wish(1.9), wish(2, "bulk-4")], rounds);
  assert.deepEqual(
    verdicts.map(({ met }) => met),
    [true, false, null],
  );
  assert.match(renderVerdicts(verdicts), /1 of 2 met, 1 not measured$/);
});

test("a wish may compare with another scenario of the same round, or by difference", () => {
  const own = { scenario: "bulk-4", placement: "across", metric: "CPU" } as const;
  const samples = [...rounds, sample(2, "trackbed", 10, "bulk-4"), sample(2, "direct", 4, "bulk-4")];
  const verdicts = judge(
    [
      { ...own, compare: "scenario", with: "bulk-1", least: 0.5 },
      { ...own, compare: "difference", with: "direct", most: 5 },
    ],
    samples,
  );
  assert.deepEqual(
    verdicts.map(({ found, met }) => [found?.median, met]),
    [
      [0.5, true],
      [6, false],
    ],
  );
});

test("every wish names a scenario that is there", () => {
  const known = new Set(scenarios.map(({ id }) => id));
  for (const wanted of readWanted()) {
    assert.ok(known.has(wanted.scenario), wanted.scenario);
    if (wanted.compare === "scenario") assert.ok(known.has(wanted.with), wanted.with);
  }
});

test("an unknown flag, scenario or variant is a usage error that names what is known", () => {
  assert.throws(() => parseFlags(["--scenario", "bulk"]), /--scenario "bulk": one of .*bulk-1/);
  assert.throws(() => parseFlags(["--variant", "envoy"]), /--variant "envoy": one of direct/);
  assert.throws(() => parseFlags(["--bogus"]), UsageError);
  assert.throws(() => parseFlags(["--rounds", "0"]), UsageError);
  assert.deepEqual([...(parseFlags(["--variant", "floor"])?.variants ?? [])], ["direct", "floor"]);
});

test("histograms of several rounds add up, and a quantile is the upper edge of its bucket", () => {
  const counts = merge([
    [
      [64, 50],
      [128, 40],
    ],
    [
      [128, 9],
      [1024, 1],
    ],
  ]);
  assert.deepEqual(
    [...counts],
    [
      [48, 50],
      [56, 49],
      [80, 1],
    ],
  );
  assert.equal(quantile(counts, 0.5), 49);
  assert.equal(quantile(counts, 0.99), 57);
  assert.equal(quantile(counts, 1), 81);
  const picture = svg("a < b", [["trackbed", counts]]);
  assert.match(picture, /a &#60; b/);
  assert.doesNotMatch(picture, /NaN|Infinity/);
});
