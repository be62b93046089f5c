// Claims about quantiles out of buckets that double: never further off than the bucket.
import assert from "node:assert/strict";
import { test } from "node:test";
import { bounds } from "#contract/tables.ts";
import { addLatency, quantile, upperEnd } from "./latency.ts";

const bucketOf = (microseconds: number): number =>
  Array.from({ length: bounds.latencyBuckets }, (_, bucket) => bucket).find((bucket) => microseconds <= upperEnd(bucket)) ?? 0;

test("a quantile is in the bucket of the true one", () => {
  const seed = 7;
  let state = seed;
  const random = (): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state / 2 ** 31;
  };
  for (let round = 0; round < 200; round++) {
    const times = Array.from({ length: 1 + Math.floor(random() * 300) }, () => Math.round(2 ** (random() * 28))).sort((a, b) => a - b);
    const latency: number[] = [];
    for (const time of times) addLatency(latency, [...Array(bucketOf(time)).fill(0), 1]);
    for (const share of [0.01, 0.5, 0.9, 0.99, 1]) {
      const truth = times[Math.max(0, Math.ceil(times.length * share) - 1)] ?? 0;
      const told = quantile(latency, share) ?? 0;
      if (truth > upperEnd(bounds.latencyBuckets - 2)) assert.equal(told, upperEnd(bounds.latencyBuckets - 2));
      else assert.equal(bucketOf(told), bucketOf(truth), `seed ${seed}, round ${round}, ${share}: ${told} for ${truth}`);
    }
  }
});

test("of nothing there is none", () => {
  assert.equal(quantile([], 0.5), null);
  assert.equal(quantile([0, 0], 0.99), null);
});
