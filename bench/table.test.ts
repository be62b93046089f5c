import assert from "node:assert/strict";
import { test } from "node:test";
import { median, rows, type Sample } from "./table.ts";

const sample = (round: number, variant: string, value: number): Sample => ({
  round,
  scenario: "bulk",
  placement: "across nodes",
  variant,
  metric: "CPU",
  unit: "s/GB",
  value,
});

test("the median of an even count is the mean of the middle two", () => {
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([3, 1, 2]), 2);
});

test("a ratio compares with direct of the same round, not with direct's median", () => {
  const table = rows([
    sample(1, "direct", 1),
    sample(1, "trackbed", 2),
    sample(2, "direct", 10),
    sample(2, "trackbed", 20),
    sample(3, "direct", 4),
    sample(3, "trackbed", 8),
  ]);
  const trackbed = table.find(({ variant }) => variant === "trackbed");
  assert.equal(trackbed?.ratio, 2);
  assert.equal(trackbed?.median, 8);
  assert.equal(table.find(({ variant }) => variant === "direct")?.ratio, null);
});
