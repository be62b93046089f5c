// Writes to the API server at a pace that it does not notice: each key at most once at a time, the newest state only, failures again later.
import { setTimeout as sleep } from "node:timers/promises";

export type WriterOptions = {
  /** Writes what is true of the key now; nothing when there is nothing to write. */
  readonly write: (key: string) => Promise<void>;
  readonly onError: (key: string, error: unknown) => void;
  readonly times?: WriterTimes;
};

export type WriterTimes = {
  readonly perSecond: number;
  readonly retryMilliseconds: { readonly first: number; readonly most: number };
};

/** A namespace of a thousand pods is told in twenty seconds, and the API server's share for one client is not used up. */
export const WRITER_TIMES: WriterTimes = { perSecond: 50, retryMilliseconds: { first: 1_000, most: 60_000 } };
const AT_ONCE = 4;
/** So many go at once when nothing was written for a while. */
const BURST = 50;

export type Writer = {
  /** Asked again while it waits is the same as asked once. */
  ask(key: string): void;
  /** Nobody wants to know any more. */
  drop(key: string): void;
  pending(): number;
  /** Resolves when nothing waits and nothing is being written. */
  idle(): Promise<void>;
};

export function createWriter({ write, onError, times = WRITER_TIMES }: WriterOptions, stop: AbortSignal): Writer {
  const waiting = new Set<string>();
  const writing = new Set<string>();
  const failures = new Map<string, number>();
  const retries = new Map<string, NodeJS.Timeout>();
  let calm: (() => void)[] = [];
  let tokens = BURST;
  let filled = performance.now();
  stop.addEventListener("abort", () => {
    for (const timer of retries.values()) clearTimeout(timer);
    retries.clear();
    waiting.clear();
  });

  function ask(key: string): void {
    if (stop.aborted) return;
    clearTimeout(retries.get(key));
    retries.delete(key);
    waiting.add(key);
    pump();
  }

  function drop(key: string): void {
    clearTimeout(retries.get(key));
    retries.delete(key);
    failures.delete(key);
    waiting.delete(key);
  }

  /** Waits for its turn under the rate. */
  async function pace(): Promise<void> {
    const now = performance.now();
    tokens = Math.min(BURST, tokens + ((now - filled) / 1000) * times.perSecond);
    filled = now;
    tokens--;
    if (tokens < 0) await sleep((-tokens / times.perSecond) * 1000, undefined, { signal: stop }).catch(() => undefined); // then `stop` ended it
  }

  function pump(): void {
    while (writing.size < AT_ONCE) {
      const key = waiting.values().find((one) => !writing.has(one));
      if (key === undefined) break;
      waiting.delete(key);
      writing.add(key);
      void one(key).finally(() => {
        writing.delete(key);
        pump();
      });
    }
    if (waiting.size > 0 || writing.size > 0) return;
    for (const resolve of calm) resolve();
    calm = [];
  }

  async function one(key: string): Promise<void> {
    await pace();
    if (stop.aborted) return;
    try {
      await write(key);
      failures.delete(key);
    } catch (error) {
      if (stop.aborted) return;
      onError(key, error);
      const count = failures.get(key) ?? 0;
      failures.set(key, count + 1);
      const { first, most } = times.retryMilliseconds;
      const timer = setTimeout(() => ask(key), Math.min(first * 2 ** count, most) * (0.5 + Math.random()));
      timer.unref();
      retries.set(key, timer);
    }
  }

  return {
    ask,
    drop,
    pending: () => waiting.size + writing.size + retries.size,
    idle: () => (waiting.size + writing.size === 0 ? Promise.resolve() : new Promise((resolve) => calm.push(resolve))),
  };
}
