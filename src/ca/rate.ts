// How fast one node gets certificates: a node that asks too often waits, and no other node notices.
export type Reservation =
  /** Wait so long, then go on. */
  | { readonly waitMilliseconds: number }
  /** Too many of this node's requests wait already. */
  | "refused";

export type RateLimit = { reserve(node: string): Reservation };

/** A node of 250 pods whose engine restarted asks for every identity at once; twice that, and then ten a second. */
export const CERTIFICATES_BURST = 500;
export const CERTIFICATES_PER_MINUTE = 600;
/** Longer waits are refused: callers give up after five seconds, and what waits here costs memory. */
export const CERTIFICATES_WAIT_MILLISECONDS = 3_000;
/** Buckets that are full again are forgotten beyond this many nodes: ten times what one replica serves. */
const NODES = 10_000;

type Bucket = { tokens: number; at: number };

export function createRateLimit(now: () => number = () => performance.now()): RateLimit {
  const buckets = new Map<string, Bucket>();
  const perMillisecond = CERTIFICATES_PER_MINUTE / 60_000;

  function forget(at: number): void {
    for (const [node, bucket] of buckets) {
      if (bucket.tokens + (at - bucket.at) * perMillisecond >= CERTIFICATES_BURST) buckets.delete(node);
    }
  }

  function reserve(node: string): Reservation {
    const at = now();
    if (buckets.size >= NODES) forget(at);
    const bucket = buckets.get(node) ?? { tokens: CERTIFICATES_BURST, at };
    const tokens = Math.min(CERTIFICATES_BURST, bucket.tokens + (at - bucket.at) * perMillisecond) - 1;
    const waitMilliseconds = Math.max(0, -tokens / perMillisecond);
    if (waitMilliseconds > CERTIFICATES_WAIT_MILLISECONDS) return "refused";
    buckets.set(node, { tokens, at });
    return { waitMilliseconds };
  }

  return { reserve };
}
