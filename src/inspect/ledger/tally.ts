// Rows of edges put together as a question asks: by edge or by some of its fields, over the whole range or in steps; of one node, or of many.
import type { AnswerLine, EdgesQuestion, GroupRow } from "../question.ts";
import type { Counts, Edge, EdgeRow } from "./edge.ts";
import { edgeFields, plain } from "./fields.ts";
import { addLatency } from "./latency.ts";

export type Tally = {
  /** `at`: Unix seconds. */
  add(edge: Edge, at: number, seconds: number, counts: Counts): void;
  /** A line of another tally of the same question. */
  merge(line: AnswerLine): void;
  /** Those that count most first within each step, no more than asked for; a last line says when there were more. */
  lines(): AnswerLine[];
};

type Sum = {
  at: number;
  end: number;
  readonly edge: Edge | null;
  readonly group: GroupRow["group"];
  count: number;
  ended: number;
  failed: number;
  bytesSent: number;
  bytesReceived: number;
  readonly latency: number[];
};

/** What a question finds beyond this many rows is left out of the answer, which says so: the memory of whoever answers is bounded. */
const MOST_ROWS = 100_000;

export function createTally({ by, step, limit }: Pick<EdgesQuestion, "by" | "step" | "limit">): Tally {
  const sums = new Map<string, Sum>();
  let cut = false;

  function sumOf(at: number, end: number, of: { readonly edge: Edge } | { readonly group: GroupRow["group"] }): Sum | null {
    const begin = step === 0 ? 0 : at;
    const key = `${begin} ${JSON.stringify("edge" in of ? of.edge : of.group)}`;
    const found = sums.get(key);
    if (found !== undefined) {
      found.at = Math.min(found.at, at);
      found.end = Math.max(found.end, end);
      return found;
    }
    if (sums.size >= MOST_ROWS) {
      cut = true;
      return null;
    }
    const names = "edge" in of ? { edge: of.edge, group: {} } : { edge: null, group: of.group };
    const sum: Sum = { at, end, ...names, count: 0, ended: 0, failed: 0, bytesSent: 0, bytesReceived: 0, latency: [] };
    sums.set(key, sum);
    return sum;
  }

  function addTo(sum: Sum | null, { count, ended, bytesSent, bytesReceived, latency }: Counts, failed: number): void {
    if (sum === null) return;
    sum.count += count;
    sum.ended += ended;
    sum.failed += failed;
    sum.bytesSent += bytesSent;
    sum.bytesReceived += bytesReceived;
    addLatency(sum.latency, latency);
  }

  function add(edge: Edge, at: number, seconds: number, counts: Counts): void {
    const begin = step === 0 ? at : at - (at % step);
    const of = by === null ? { edge } : { group: groupOf(edge, by) };
    addTo(sumOf(begin, begin + Math.max(step, seconds), of), counts, edge.verdict === "allowed" ? 0 : counts.ended);
  }

  function merge(line: AnswerLine): void {
    if (line.type === "cut") cut = true;
    if (line.type !== "edge" && line.type !== "group") return;
    const at = Date.parse(line.time) / 1000;
    const of = line.type === "edge" ? { edge: line.edge } : { group: line.group };
    const failed = line.type === "group" ? line.failed : line.edge.verdict === "allowed" ? 0 : line.ended;
    addTo(sumOf(at, at + line.seconds, of), line, failed);
  }

  function lines(): AnswerLine[] {
    const begin = ({ at }: Sum): number => (step === 0 ? 0 : at);
    const sorted = [...sums.values()].sort((a, b) => begin(a) - begin(b) || b.count - a.count || b.ended - a.ended);
    const told: AnswerLine[] = sorted.slice(0, limit).map(lineOf);
    if (cut || sorted.length > limit) told.push({ type: "cut", limit: Math.min(limit, MOST_ROWS) });
    return told;
  }

  return { add, merge, lines };
}

function lineOf({ at, end, edge, group, failed, ...counts }: Sum): AnswerLine {
  const when = { time: new Date(at * 1000).toISOString(), seconds: end - at };
  return edge === null
    ? { type: "group", ...when, group, failed, ...counts }
    : ({ type: "edge", ...when, edge, ...counts } satisfies { type: "edge" } & EdgeRow);
}

function groupOf(edge: Edge, by: readonly string[]): GroupRow["group"] {
  return Object.fromEntries(by.map((name) => [name, plain(edgeFields[name]?.read(edge) ?? null)]));
}
