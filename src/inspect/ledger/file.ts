// Where the ledger lies: a file that only its owner can read. One that cannot be used is set aside and said; without a place it is in memory.
import { closeSync, existsSync, mkdirSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { type Book, openBook } from "./book.ts";

/** Days of history; SQLite refuses to grow beyond it. */
export const FILE_BYTES = 48 << 20;
/** Of a ledger that is nowhere: hours. */
export const MEMORY_BYTES = 8 << 20;
const IN_MEMORY = ":memory:";

/** For createLedger: opens the file again and again. `path` null: in memory. Does not throw. */
export function ledgerFile(path: string | null, failed: (what: string, error: unknown) => void): () => Book {
  let opened = false;
  return () => {
    if (path === null) return openBook(IN_MEMORY, MEMORY_BYTES);
    try {
      // Whoever opens it again has found it broken.
      if (opened) setAside(path, failed);
      opened = true;
      return openPrivately(path);
    } catch (first) {
      failed(`the ledger ${path} cannot be used`, first);
    }
    try {
      setAside(path, failed);
      return openPrivately(path);
    } catch (second) {
      failed(`no ledger can be kept at ${path}: what is counted from now on is gone with this process`, second);
      return openBook(IN_MEMORY, MEMORY_BYTES);
    }
  };
}

/** Nothing of it stays. */
export function removeLedger(path: string): void {
  for (const beside of ["", "-wal", "-shm", ".broken"]) rmSync(`${path}${beside}`, { force: true });
}

function openPrivately(path: string): Book {
  // Not `recursive`: with that Node turns for ever where nothing can be made, as below /proc.
  if (!existsSync(dirname(path))) mkdirSync(dirname(path), { mode: 0o700 });
  // SQLite gives the files beside it the mode that this one has.
  closeSync(openSync(path, "a", 0o600));
  return openBook(path, FILE_BYTES);
}

/** Kept for whoever wants to know what happened; the one before it goes. */
function setAside(path: string, failed: (what: string, error: unknown) => void): void {
  const aside = `${path}.broken`;
  for (const beside of ["-wal", "-shm"]) rmSync(`${path}${beside}`, { force: true });
  renameSync(path, aside);
  failed(`the ledger was set aside as ${aside}, and a new one begun`, null);
}
