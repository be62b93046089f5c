// Desired state from a directory of YAML: the same documents that a cluster would hold, watched for changes.
import { setTimeout as sleep } from "node:timers/promises";
import { meshError } from "#mesh/error.ts";
import { createHoldings, type Holdings } from "./directory/holdings.ts";
import { type Listing, listTree, readListed } from "./directory/tree.ts";
import { createWatcher } from "./directory/watch.ts";
import type { Change, Source } from "./source.ts";

export type DirectoryOptions = {
  /** Quiet time after a change before the directory is read again, and the age at which a file counts as written. Default 20. */
  readonly debounceMilliseconds?: number;
  /** Longest time that a change goes unnoticed when the kernel does not tell of it. Default 5000; 250 where watching is impossible. */
  readonly sweepMilliseconds?: number;
};

/** Editors and `>` truncate before they write: 20 ms without a change is long after that and short for people. */
const DEBOUNCE_MILLISECONDS = 20;
const SWEEP_MILLISECONDS = 5000;
/**
 * A file that never lies still is taken as it is after this long. So is an empty one: its writer may have been stopped between truncating
 * and writing, and until then an empty file would mean that its policies were deleted.
 */
const SETTLE_MILLISECONDS = 1000;

/** Every *.yaml, *.yml and *.json below `dir`. The first batch comes when all of it was read; rejects when `dir` cannot be read then. */
export function directorySource(dir: string, options: DirectoryOptions = {}): Source {
  return (stop) => changes(dir, options, stop);
}

async function* changes(dir: string, options: DirectoryOptions, stop: AbortSignal): AsyncGenerator<Change> {
  const debounce = options.debounceMilliseconds ?? DEBOUNCE_MILLISECONDS;
  const watcher = createWatcher(dir, options.sweepMilliseconds ?? SWEEP_MILLISECONDS, stop);
  const holdings = createHoldings();
  const reader = createReader(dir, holdings, debounce, watcher.add);
  try {
    for (let first = true; !stop.aborted; first = false) {
      const listing = await reader.settle(stop);
      const root = listing.troubles.find(({ path }) => path === "");
      if (first && root !== undefined) throw meshError("E_DIRECTORY_UNUSABLE", `the directory ${dir} cannot be read: ${root.reason}`);
      watcher.keep(listing.directories);
      const change = holdings.take();
      if (change !== null && !stop.aborted) yield change;
      await watcher.next();
      if (!stop.aborted) await sleep(debounce, undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop
    }
  } finally {
    watcher.close();
  }
}

/** Brings holdings up to date with the directory, reading only files that changed. */
function createReader(dir: string, holdings: Holdings, debounce: number, entering: (directory: string) => void) {
  /** Versions that were read; known holds the files that could never be read too. */
  const read = new Map<string, string>();
  const known = new Set<string>();

  async function pass(force: boolean): Promise<{ readonly listing: Listing; readonly settled: boolean }> {
    const listing = await listTree(dir, entering);
    let settled = true;
    for (const [file, signature] of listing.files) {
      if (read.get(file) === signature.id) continue;
      const age = Date.now() - signature.modified;
      const fresh = age >= 0 && age < (signature.empty ? SETTLE_MILLISECONDS : debounce);
      const result = fresh && !force ? "changing" : await readListed(dir, file, signature);
      if (result === "changing") settled = false;
      else if (result !== "gone") {
        // What cannot be read is tried again at each pass: permissions change without touching the file.
        if ("text" in result) read.set(file, signature.id);
        known.add(file);
        holdings.set(file, result);
      }
    }
    for (const file of [...known]) {
      if (listing.files.has(file) || hidden(listing, file)) continue;
      read.delete(file);
      known.delete(file);
      holdings.set(file, null);
    }
    holdings.setTrouble(
      listing.troubles.map(({ path, reason }) => ({
        code: "E_SOURCE_INVALID",
        key: null,
        file: path === "" ? "." : path,
        line: 1,
        field: "",
        reason,
      })),
    );
    return { listing, settled };
  }

  return {
    /** Passes until no file is being written, at most SETTLE_MILLISECONDS. */
    settle: async (stop: AbortSignal): Promise<Listing> => {
      const deadline = Date.now() + SETTLE_MILLISECONDS;
      for (;;) {
        const { listing, settled } = await pass(Date.now() >= deadline);
        if (settled || stop.aborted || Date.now() >= deadline + SETTLE_MILLISECONDS) return listing;
        await sleep(debounce, undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop above
      }
    },
  };
}

/** Not listed because something on the way to it cannot be looked at: that does not make its objects go away. */
const hidden = (listing: Listing, file: string): boolean =>
  listing.troubles.some(({ path }) => path === "" || path === file || file.startsWith(`${path}/`));
