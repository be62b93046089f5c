// How long to wait before the next attempt: doubling, with jitter so that a thousand nodes do not come back in one instant.
const FIRST_MILLISECONDS = 10;
const LAST_MILLISECONDS = 15_000;

export type Backoff = { next(): number; reset(): void };

/** `random` yields 0 to 1. A delay lies between half and one and a half of its step. */
export function backoff(random: () => number, first = FIRST_MILLISECONDS, last = LAST_MILLISECONDS): Backoff {
  let step = first;
  return {
    next: () => {
      const delay = step * (0.5 + random());
      step = Math.min(step * 2, last);
      return delay;
    },
    reset: () => {
      step = first;
    },
  };
}
