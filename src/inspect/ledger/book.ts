// The edges of days in one small SQLite file: exact counts, in stretches of time that grow with their age, within a size that is never exceeded.
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { bounds } from "#contract/tables.ts";
import type { Counts } from "./edge.ts";

/** What was counted of edge number `edge` from `bucket` on (Unix seconds) for `step` seconds. */
export type Entry = Counts & { readonly step: number; readonly bucket: number; readonly edge: number };
export type Place = Pick<Entry, "step" | "bucket" | "edge">;

export type Book = {
  /** Every edge that is known: its number, and the encoding of its EdgeAbout. */
  edges(): readonly { readonly id: number; readonly about: Uint8Array }[];
  addEdges(edges: readonly { readonly id: number; readonly about: Uint8Array }[]): void;
  /** Adds to what is there. */
  add(entries: readonly Entry[]): void;
  /** Entries from `since` on and before `until` (Unix seconds), in the order of their places, after the place `after`; at most `limit`. */
  read(range: { readonly since: number; readonly until: number; readonly after: Place | null; readonly limit: number }): Entry[];
  /** Oldest bucket of these steps, null without any. */
  oldest(step: number): number | null;
  /** Puts the entries of `step` in [from, to) together into entries of `into` seconds. */
  roll(step: number, into: number, from: number, to: number): void;
  /** Forgets a bucket of `step`. */
  forget(step: number, bucket: number): void;
  /** Forgets edges of which nothing is known any more; the numbers of them. */
  tidy(): number[];
  /** Share of the largest size that is used. */
  full(): number;
  close(): void;
};

/** Raised when what is stored changes its form; a file of another form is set aside. */
const FORM = 1;
const PAGE_BYTES = 4096;
const LATENCIES = Array.from({ length: bounds.latencyBuckets }, (_, bucket) => `l${bucket}`);
const NUMBERS = ["count", "ended", "sent", "received", ...LATENCIES];

/** Opens the file or makes it; ":memory:" for one that is nowhere. Throws what SQLite throws. */
export function openBook(path: string, mostBytes: number): Book {
  const db = new DatabaseSync(path);
  try {
    return bookOf(db, mostBytes);
  } catch (error) {
    db.close();
    throw error;
  }
}

function bookOf(db: DatabaseSync, mostBytes: number): Book {
  const form = Number(db.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (form !== 0 && form !== FORM) throw new Error(`its form is ${form}, and this version has form ${FORM}`);
  db.exec(`
    PRAGMA page_size = ${PAGE_BYTES};
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA journal_size_limit = ${1 << 22};
    PRAGMA max_page_count = ${Math.floor(mostBytes / PAGE_BYTES)};
    PRAGMA cache_size = -2048;
    CREATE TABLE IF NOT EXISTS edges (id INTEGER PRIMARY KEY, about BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS counts (
      step INTEGER NOT NULL, bucket INTEGER NOT NULL, edge INTEGER NOT NULL, ${NUMBERS.map((name) => `${name} INTEGER NOT NULL`).join(", ")},
      PRIMARY KEY (step, bucket, edge)
    ) WITHOUT ROWID;
    PRAGMA user_version = ${FORM};
  `);
  const added = NUMBERS.map((name) => `${name} = ${name} + excluded.${name}`).join(", ");
  const places = ["step", "bucket", "edge", ...NUMBERS];
  const statements = {
    edges: db.prepare("SELECT id, about FROM edges"),
    addEdge: db.prepare("INSERT OR REPLACE INTO edges (id, about) VALUES (?, ?)"),
    add: db.prepare(
      `INSERT INTO counts (${places.join(", ")}) VALUES (${places.map(() => "?").join(", ")}) ON CONFLICT DO UPDATE SET ${added}`,
    ),
    read: db.prepare(
      `SELECT ${places.join(", ")} FROM counts WHERE step = ? AND (bucket, edge) > (?, ?) AND bucket < ? ORDER BY bucket, edge LIMIT ?`,
    ),
    oldest: db.prepare("SELECT MIN(bucket) AS bucket FROM counts WHERE step = ?"),
    roll: db.prepare(
      `INSERT INTO counts (${places.join(", ")})
       SELECT :into, bucket - bucket % :into, edge, ${NUMBERS.map((name) => `SUM(${name})`).join(", ")} FROM counts
       WHERE step = :step AND bucket >= :from AND bucket < :to GROUP BY bucket - bucket % :into, edge
       ON CONFLICT DO UPDATE SET ${added}`,
    ),
    rolled: db.prepare("DELETE FROM counts WHERE step = ? AND bucket >= ? AND bucket < ?"),
    used: db.prepare("SELECT DISTINCT edge FROM counts"),
    dropEdge: db.prepare("DELETE FROM edges WHERE id = ?"),
    pages: db.prepare("PRAGMA page_count"),
    free: db.prepare("PRAGMA freelist_count"),
  };

  function atOnce(work: () => void): void {
    db.exec("BEGIN IMMEDIATE");
    try {
      work();
      db.exec("COMMIT");
    } catch (error) {
      // SQLite has rolled back by itself where it had to.
      if (db.isTransaction) db.exec("ROLLBACK");
      throw error;
    }
  }

  const number = (statement: StatementSync, name: string): number => Number(statement.get()?.[name] ?? 0);

  return {
    edges: () => statements.edges.all().map(({ id, about }) => ({ id: Number(id), about: about as Uint8Array })),
    addEdges: (edges) =>
      atOnce(() => {
        for (const { id, about } of edges) statements.addEdge.run(id, about);
      }),
    add: (entries) =>
      atOnce(() => {
        for (const entry of entries) statements.add.run(...valuesOf(entry));
      }),
    read: ({ since, until, after, limit }) => {
      const found: Entry[] = [];
      for (const step of STEPS) {
        if (after !== null && step < after.step) continue;
        const here = after !== null && step === after.step;
        // A bucket that began before `since` may reach into it.
        const from = since - (since % step);
        const [bucket, edge] = here ? [after.bucket, after.edge] : [from, -1];
        found.push(...statements.read.all(step, bucket, edge, until, limit - found.length).map(entryOf));
        if (found.length >= limit) break;
      }
      return found;
    },
    oldest: (step) => {
      const bucket = statements.oldest.get(step)?.["bucket"];
      return bucket === null || bucket === undefined ? null : Number(bucket);
    },
    roll: (step, into, from, to) =>
      atOnce(() => {
        statements.roll.run({ step, into, from, to });
        statements.rolled.run(step, from, to);
      }),
    forget: (step, bucket) => void statements.rolled.run(step, bucket, bucket + 1),
    tidy: () => {
      const used = new Set(statements.used.all().map(({ edge }) => Number(edge)));
      const unused = statements.edges
        .all()
        .map(({ id }) => Number(id))
        .filter((id) => !used.has(id));
      atOnce(() => {
        for (const id of unused) statements.dropEdge.run(id);
      });
      return unused;
    },
    full: () => ((number(statements.pages, "page_count") - number(statements.free, "freelist_count")) * PAGE_BYTES) / mostBytes,
    close: () => db.close(),
  };
}

/** Seconds of a row of counts, by age. */
export const STEPS = [10, 60, 600] as const;

const valuesOf = ({ step, bucket, edge, count, ended, bytesSent, bytesReceived, latency }: Entry): SQLInputValue[] => [
  step,
  bucket,
  edge,
  count,
  ended,
  bytesSent,
  bytesReceived,
  ...LATENCIES.map((_, index) => latency[index] ?? 0),
];

function entryOf(row: Record<string, unknown>): Entry {
  const of = (name: string): number => Number(row[name]);
  return {
    step: of("step"),
    bucket: of("bucket"),
    edge: of("edge"),
    count: of("count"),
    ended: of("ended"),
    bytesSent: of("sent"),
    bytesReceived: of("received"),
    latency: LATENCIES.map(of),
  };
}
