// The ledger of one node, or of waypoints: takes what an engine counted, keeps it for days, answers questions about it. Never throws at its engine.
import { setImmediate as breathe } from "node:timers/promises";
import type { Edge as EdgeMessage } from "#contract/gen/engine_pb.ts";
import { parseFilter } from "../filter.ts";
import type { AnswerLine, EdgesQuestion } from "../question.ts";
import { type Book, type Entry, STEPS } from "./book.ts";
import { type Edge, isToldTwice, otherOf, readEdge } from "./edge.ts";
import { edgeFields } from "./fields.ts";
import { addLatency } from "./latency.ts";
import { createTally } from "./tally.ts";

export type LedgerStatus = {
  /** Distinct edges that are known. */
  readonly edges: number;
  /** Connections and requests that were counted, in all. */
  readonly counted: number;
  /** Of them, those that are under an edge of others: there were too many distinct ones. */
  readonly other: number;
  /** Of them, those that could not be kept. */
  readonly lost: number;
  /** Share of the largest size that is used. */
  readonly full: number;
};

export type Ledger = {
  take(edges: readonly EdgeMessage[]): void;
  answer(question: EdgesQuestion): Promise<AnswerLine[]>;
  /** Writes what is over, or everything, and lets old times grow together. Called every few seconds, and with `all` before the end. */
  keep(all?: boolean): Promise<void>;
  status(): LedgerStatus;
  close(): void;
};

export type LedgerOptions = {
  /** Called again when the book broke: sets aside what was there. Must not throw. */
  readonly open: () => Book;
  readonly failed: (error: unknown) => void;
  readonly now?: () => number;
};

/** Distinct edges; what comes beyond is counted together by destination. With their names some 8 MB. */
const MOST_EDGES = 8_192;
/** Destinations of such; what comes beyond these has no name. */
const MOST_OTHERS = 1_024;
/** Rows that are written or read at once: some milliseconds. */
const SLICE = 2_048;
/** How long rows of each step are kept before they grow into the next; after the last they are forgotten. */
const KEPT_SECONDS = [30 * 60, 12 * 3_600, 14 * 86_400] as const;
/** The oldest go when the file is fuller than this, long before SQLite refuses. */
const FULLEST = 0.9;
/** What is forgotten makes room for new names this often: it takes a look at every row. */
const TIDY_SECONDS = 600;
const [FINEST] = STEPS;

type Known = { readonly id: number; readonly edge: Edge };
type Sum = { count: number; ended: number; bytesSent: number; bytesReceived: number; readonly latency: number[] };

export function createLedger({ open, failed, now = Date.now }: LedgerOptions): Ledger {
  let book = open();
  let known = new Map<string, Known>();
  let names = new Map<number, Edge>();
  let nextId = 1;
  let others = 0;
  let tidied = 0;
  /** Not in the book yet: by bucket, then by edge. */
  const pending = new Map<number, Map<number, Sum>>();
  const unwritten: { id: number; about: Uint8Array }[] = [];
  let [counted, other, lost] = [0, 0, 0];
  /** One at a time: what is being moved must not be counted twice. */
  let turn: Promise<unknown> = Promise.resolve();

  function load(): void {
    [known, names, nextId, others] = [new Map(), new Map(), 1, 0];
    for (const { id, about } of book.edges()) {
      const edge = readEdge(about);
      if (!("fault" in edge)) remember(textOf(about), { id, edge });
      nextId = Math.max(nextId, id + 1);
    }
  }

  function remember(text: string, one: Known): void {
    known.set(text, one);
    names.set(one.id, one.edge);
    if (one.edge.other) others++;
  }

  /** Null for what no engine may send: it is counted as lost. */
  function meet(about: Uint8Array): Known | null {
    const text = textOf(about);
    const found = known.get(text);
    if (found !== undefined) return found;
    const edge = readEdge(about);
    if ("fault" in edge) {
      failed(new Error(`an edge of the engine cannot be read: ${edge.fault}`));
      return null;
    }
    if (!edge.other && known.size - others >= MOST_EDGES) return meet(otherOf(about, true));
    if (edge.other && edge.destination.workload !== null && others >= MOST_OTHERS) return meet(otherOf(about, false));
    const one = { id: nextId++, edge };
    remember(text, one);
    unwritten.push({ id: one.id, about });
    return one;
  }

  function take(edges: readonly EdgeMessage[]): void {
    const at = Math.floor(now() / 1000);
    const bucket = at - (at % FINEST);
    const sums = pending.get(bucket) ?? new Map<number, Sum>();
    pending.set(bucket, sums);
    for (const message of edges) {
      const count = Number(message.count);
      counted += count;
      const met = meet(message.about);
      if (met === null) {
        lost += count;
        continue;
      }
      if (met.edge.other) other += count;
      const sum = sums.get(met.id) ?? { count: 0, ended: 0, bytesSent: 0, bytesReceived: 0, latency: [] };
      sums.set(met.id, sum);
      sum.count += count;
      sum.ended += Number(message.ended);
      sum.bytesSent += Number(message.bytesSent);
      sum.bytesReceived += Number(message.bytesReceived);
      addLatency(sum.latency, message.latency.map(Number));
    }
  }

  /** What is over goes into the book; the present bucket too when `all`. */
  async function write(all: boolean): Promise<void> {
    const at = Math.floor(now() / 1000);
    for (const [bucket, sums] of [...pending]) {
      if (!all && bucket + FINEST > at) continue;
      pending.delete(bucket);
      const entries: Entry[] = [...sums].map(([edge, sum]) => ({ step: FINEST, bucket, edge, ...sum }));
      try {
        book.addEdges(unwritten.splice(0));
        for (let from = 0; from < entries.length; from += SLICE) {
          book.add(entries.slice(from, from + SLICE));
          await breathe();
        }
      } catch (error) {
        lost += entries.reduce((sum, { count }) => sum + count, 0);
        throw error;
      }
    }
  }

  /** Nothing that is wrong with a file is a reason to stop counting: in the place of a broken one another is begun. */
  function troubled(error: unknown): void {
    failed(error);
    if (!isBroken(error)) return;
    book.close();
    book = open();
    unwritten.length = 0;
    pending.clear();
    load();
  }

  async function age(): Promise<void> {
    const at = Math.floor(now() / 1000);
    for (const [index, step] of STEPS.entries()) {
      const [kept = 0, into] = [KEPT_SECONDS[index], STEPS[index + 1]];
      const until = at - kept;
      for (let oldest = book.oldest(step); oldest !== null; oldest = book.oldest(step)) {
        if (into === undefined) {
          if (oldest + step > until) break;
          book.forget(step, oldest);
        } else {
          const from = oldest - (oldest % into);
          if (from + into > until) break;
          book.roll(step, into, from, from + into);
        }
        await breathe();
      }
    }
    // What is over half an hour old but rolled up goes first, for it is the oldest; a storm of edges may leave nothing else than the finest.
    for (const step of [...STEPS].reverse())
      for (let oldest = book.oldest(step); oldest !== null && book.full() > FULLEST; oldest = book.oldest(step)) {
        book.forget(step, oldest);
        await breathe();
      }
    if ((known.size < MOST_EDGES / 2 && others === 0) || at - tidied < TIDY_SECONDS) return;
    tidied = at;
    const gone = new Set(book.tidy());
    for (const sums of pending.values()) for (const id of sums.keys()) gone.delete(id);
    for (const [text, { id, edge }] of known)
      if (gone.has(id)) {
        known.delete(text);
        names.delete(id);
        if (edge.other) others--;
      }
  }

  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work);
    turn = mine.catch(() => undefined); // its own caller is told
    return mine;
  }

  const keep = (all = false): Promise<void> =>
    inTurn(async () => {
      try {
        await write(all);
      } catch (error) {
        troubled(error);
      }
      try {
        await age();
      } catch (error) {
        troubled(error);
      }
    });

  const answer = (question: EdgesQuestion): Promise<AnswerLine[]> =>
    inTurn(async () => {
      try {
        return await find(question);
      } catch (error) {
        troubled(error);
        throw error;
      }
    });

  async function find(question: EdgesQuestion): Promise<AnswerLine[]> {
    const matches = parseFilter(question.filter, edgeFields);
    const { namespaces, once } = question;
    const isWanted = (edge: Edge): boolean =>
      (!once || !isToldTwice(edge)) && matches(edge) && (namespaces === null || touches(edge, namespaces));
    const wanted = new Map([...names].filter(([, edge]) => isWanted(edge)));
    const tally = createTally(question);
    const since = Math.floor((question.since ?? 0) / 1000);
    const until = Math.ceil((question.until ?? now() + FINEST * 1000) / 1000);
    const add = ({ step, bucket, edge, ...counts }: Entry): void => {
      const found = wanted.get(edge);
      if (found !== undefined) tally.add(found, bucket, step, counts);
    };
    for (const [bucket, sums] of pending)
      if (bucket + FINEST > since && bucket < until) for (const [edge, sum] of sums) add({ step: FINEST, bucket, edge, ...sum });
    for (let after: Entry | null = null; ; ) {
      const slice: Entry[] = book.read({ since, until, after, limit: SLICE });
      for (const entry of slice) add(entry);
      after = slice.at(-1) ?? null;
      if (after === null || slice.length < SLICE) break;
      await breathe();
    }
    return tally.lines();
  }

  load();
  return {
    take,
    answer,
    keep,
    status: () => ({ edges: known.size, counted, other, lost, full: book.full() }),
    close: () => book.close(),
  };
}

const touches = ({ source, destination }: Edge, namespaces: readonly string[]): boolean =>
  [source.namespace, destination.namespace].some((namespace) => namespace !== null && namespaces.includes(namespace));

/** One character for each byte: found in a Map as any text. */
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");

/** SQLITE_CORRUPT and SQLITE_NOTADB, whatever else they say. */
const BROKEN = [11, 26];

const isBroken = (error: unknown): boolean =>
  error instanceof Error && "errcode" in error && typeof error.errcode === "number" && BROKEN.includes(error.errcode & 0xff);
