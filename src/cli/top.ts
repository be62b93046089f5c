// `trackbed top`: the edges of the last minute, again and again: who calls whom how often, how much of it fails, how long it takes.
import { setTimeout as sleep } from "node:timers/promises";
import { quantile } from "#inspect/ledger/latency.ts";
import { type AnswerLine, type EdgesQuestion, type GroupRow, readQuestion } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import { parseDuration } from "./cluster/wait.ts";
import { type AskingOptions, spell } from "./flows.ts";
import { type Exit, exit, type Format, usage } from "./outcome.ts";
import { type Asker, askerOf } from "./question.ts";
import { paint, table } from "./table.ts";

export const SORTS = ["rate", "failed", "p50", "p99", "bytes"] as const;

export type TopOptions = Omit<AskingOptions, "since"> & {
  readonly filter?: string;
  readonly sort: (typeof SORTS)[number];
  readonly window: string;
  readonly limit?: string;
  readonly once: boolean;
};

export type TopRow = {
  readonly group: GroupRow["group"];
  /** Connections or requests a second. */
  readonly rate: number;
  /** Share of those that ended which were neither refused nor failed; null when none ended. */
  readonly success: number | null;
  readonly failed: number;
  readonly p50: number | null;
  readonly p99: number | null;
  /** Both ways, a second. */
  readonly bytes: number;
};

/** Engines tell every 2 s. */
const REFRESH_MS = 2_000;
const BY = ["source.namespace", "source.workload", "destination.namespace", "destination.workload", "service", "port", "reporter"];
const ROWS = 20;
/** Of the terminal, for the lines above the rows. */
const HEADING_LINES = 3;

export async function runTop(options: TopOptions, format: Format): Promise<Exit> {
  const window = parseDuration(options.window);
  if (window === null) throw usage(`--window ${options.window} is not a time such as 1m`);
  const asker = await askerOf(options, options.account ?? null);
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort()).once("SIGTERM", () => stop.abort());
  const live = !options.once && format === "text" && process.stdout.isTTY === true;
  try {
    do {
      const { rows, missing } = await look(asker, options, window, stop.signal);
      if (stop.signal.aborted) break;
      const shown = rows.slice(0, limitOf(options, live));
      if (format === "json") for (const row of shown) console.log(JSON.stringify(row));
      else if (live) process.stdout.write(`\x1b[H\x1b[2J${heading(options, rows.length, missing)}\n\n${page(shown)}\n`);
      else {
        for (const { node, reason } of missing) console.error(`trackbed: without ${node}: ${reason}`);
        console.log(page(shown));
      }
      if (!options.once) await sleep(REFRESH_MS, undefined, { signal: stop.signal }).catch(() => undefined); // an abort ends the loop
    } while (!options.once && !stop.signal.aborted);
    return exit.ok;
  } finally {
    await asker.close();
  }
}

type Missing = Extract<AnswerLine, { type: "missing" }>;

async function look(asker: Asker, options: TopOptions, window: number, stop: AbortSignal): Promise<{ rows: TopRow[]; missing: Missing[] }> {
  const { filter = "", namespace } = options;
  const now = Date.now();
  const asked = {
    about: "edges",
    filter,
    by: BY,
    since: now - window,
    until: now,
    namespaces: namespace === undefined ? null : [namespace],
  };
  const groups: GroupRow[] = [];
  const missing: Missing[] = [];
  for await (const line of asker.ask(questionOf(asked), stop)) {
    if (line.type === "group") groups.push(line);
    else if (line.type === "missing") missing.push(line);
  }
  return { rows: rowsOf(groups, options.sort), missing };
}

function questionOf(asked: object): EdgesQuestion {
  try {
    return readQuestion(asked) as EdgesQuestion;
  } catch (error) {
    throw isMeshError(error) ? usage(error.message) : error;
  }
}

/** A row's own seconds count, not the window asked for: what was counted lies in whole steps. */
export function rowsOf(groups: readonly GroupRow[], sort: TopOptions["sort"]): TopRow[] {
  const seconds = Math.max(1, spanOf(groups));
  const rows = groups.map(({ group, count, ended, failed, bytesSent, bytesReceived, latency }) => ({
    group,
    rate: count / seconds,
    success: ended === 0 ? null : 1 - failed / Math.max(ended, count),
    failed: failed / seconds,
    p50: quantile(latency, 0.5),
    p99: quantile(latency, 0.99),
    bytes: (bytesSent + bytesReceived) / seconds,
  }));
  return rows.sort((a, b) => (b[sort] ?? -1) - (a[sort] ?? -1) || b.rate - a.rate);
}

/** From the first moment of all groups to the last. */
function spanOf(groups: readonly GroupRow[]): number {
  const starts = groups.map(({ time }) => Date.parse(time) / 1000);
  const ends = groups.map(({ time, seconds }) => Date.parse(time) / 1000 + seconds);
  return groups.length === 0 ? 0 : Math.max(...ends) - Math.min(...starts);
}

const limitOf = ({ limit }: TopOptions, live: boolean): number =>
  limit !== undefined ? Number(limit) : live ? Math.max(1, (process.stdout.rows ?? ROWS) - HEADING_LINES - 1) : ROWS;

function heading({ window, sort }: TopOptions, edges: number, missing: readonly Missing[]): string {
  const without = missing.length === 0 ? "" : `, without ${missing.map(({ node }) => node).join(", ")}`;
  return paint(`${edges} edges in ${window}, by ${sort}${without}`, missing.length === 0 ? "bold" : "yellow");
}

function page(rows: readonly TopRow[]): string {
  const end = (group: GroupRow["group"], side: string): string =>
    group[`${side}.workload`] === null ? "-" : `${group[`${side}.namespace`] ?? "?"}/${group[`${side}.workload`]}`;
  const header = ["SOURCE", "DESTINATION", "PORT", "WHAT", "PER S", "SUCCESS", "P50", "P99", "BYTES/S"];
  return table(
    header,
    rows.map(({ group, rate, success, p50, p99, bytes }) => [
      end(group, "source"),
      group["destination.workload"] === null && group["service"] !== null ? String(group["service"]) : end(group, "destination"),
      String(group["port"]),
      group["reporter"] === "waypoint" ? "requests" : "connections",
      rate.toFixed(rate < 10 ? 1 : 0),
      success === null ? "-" : paint(`${(success * 100).toFixed(1)}%`, success < 1 ? "red" : "green"),
      spell(p50),
      spell(p99),
      String(Math.round(bytes)),
    ]),
  );
}
