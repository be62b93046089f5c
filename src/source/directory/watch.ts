// Wakes the reader of a directory: by the kernel's notice where there is one, by a sweep where there is none.
import { type FSWatcher, watch } from "node:fs";
import { join } from "node:path";

/** Where watching is impossible (no inotify watches left, a file system without notices) the sweep takes over. */
const POLL_MILLISECONDS = 250;

export type Watcher = {
  /** Watches one directory, not what is below it. Repeating it is free. */
  add(directory: string): void;
  /** Forgets directories that are not among these. */
  keep(directories: readonly string[]): void;
  /** Resolves at the next notice, at the sweep, or when stopped. Notices since the last call count. */
  next(): Promise<void>;
  close(): void;
};

export function createWatcher(root: string, sweepMilliseconds: number, stop: AbortSignal): Watcher {
  const watched = new Map<string, FSWatcher>();
  let noticed = false;
  let polling = false;
  let wake: (() => void) | null = null;

  const notice = (): void => {
    noticed = true;
    wake?.();
  };
  const forget = (directory: string): void => {
    watched.get(directory)?.close();
    watched.delete(directory);
  };
  const forgetAll = (): void => {
    for (const directory of [...watched.keys()]) forget(directory);
  };
  // At once, not when the reader is asked next: an open watch keeps the process alive.
  const stopped = (): void => {
    forgetAll();
    notice();
  };
  stop.addEventListener("abort", stopped, { once: true });

  return {
    add: (directory) => {
      if (watched.has(directory) || stop.aborted) return;
      try {
        const watcher = watch(join(root, directory), notice);
        watcher.on("error", () => {
          polling = true;
          forget(directory);
          notice();
        });
        watched.set(directory, watcher);
      } catch {
        polling = true; // answered by looking more often, see POLL_MILLISECONDS
      }
    },
    keep: (directories) => {
      const wanted = new Set(directories);
      for (const directory of [...watched.keys()]) if (!wanted.has(directory)) forget(directory);
    },
    next: async () => {
      if (!noticed) {
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        const timer = setTimeout(resolve, polling ? Math.min(POLL_MILLISECONDS, sweepMilliseconds) : sweepMilliseconds);
        await promise;
        clearTimeout(timer);
        wake = null;
      }
      noticed = false;
    },
    close: () => {
      stop.removeEventListener("abort", stopped);
      forgetAll();
    },
  };
}
