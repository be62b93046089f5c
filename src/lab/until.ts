// Waiting for a condition with a deadline: the only way anything here waits.
import { setTimeout as pause } from "node:timers/promises";

// First look at once, then at intervals that grow to this: quick for what is nearly there, cheap for what takes seconds on two cores.
const LONGEST_PAUSE_MS = 50;

/** Resolves with the first value of `condition` that is neither undefined, null nor false; rejects, naming `what`, after `deadlineMs`. */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  deadlineMs = 30_000,
  because: () => string = () => "",
): Promise<NonNullable<Exclude<T, false>>> {
  const started = performance.now();
  let wait = 2;
  let last: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== undefined && value !== null && value !== false) return value as NonNullable<Exclude<T, false>>;
      last = undefined;
    } catch (error) {
      last = error; // a condition that throws is a condition that does not hold yet; its reason is told when time is up
    }
    if (performance.now() - started > deadlineMs) {
      const reason = [last instanceof Error ? last.message : "", because()].filter((text) => text !== "").join("\n");
      throw new Error(`not within ${deadlineMs} ms: ${what}${reason === "" ? "" : `\n${reason}`}`, { cause: last });
    }
    await pause(wait);
    wait = Math.min(wait * 1.5, LONGEST_PAUSE_MS);
  }
}
