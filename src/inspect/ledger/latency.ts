// Latencies as the ledger counts them: buckets that double, added without loss, and quantiles read out of them.
import { bounds } from "#contract/tables.ts";

/** Upper end of a bucket in microseconds; the last has none. */
export const upperEnd = (bucket: number): number =>
  bucket >= bounds.latencyBuckets - 1 ? Number.POSITIVE_INFINITY : bounds.latencyFirstMicroseconds * 2 ** bucket;

export function addLatency(to: number[], more: readonly number[]): void {
  for (const [bucket, count] of more.entries()) to[bucket] = (to[bucket] ?? 0) + count;
}

/**
 * The time in microseconds that a share of all stayed below; null without any. Inside a bucket they are taken as spread evenly, so it is exact to
 * the bucket: at most half or twice the truth. What took longer than the last upper end is told as that.
 */
export function quantile(latency: readonly number[], share: number): number | null {
  const total = latency.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let before = 0;
  for (const [bucket, count] of latency.entries()) {
    if (count === 0 || before + count < total * share) {
      before += count;
      continue;
    }
    const from = bucket === 0 ? 0 : upperEnd(bucket - 1);
    const to = upperEnd(bucket);
    return to === Number.POSITIVE_INFINITY ? from : from + (to - from) * Math.max(0, (total * share - before) / count);
  }
  return upperEnd(latency.length - 2);
}
