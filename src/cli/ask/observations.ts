// What was seen, from where it was told to look: files of JSON lines, or the ledger of days that nodes keep, here or in a cluster.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { gatherObserved, type Observations } from "#inspect/observed.ts";
import { readQuestion } from "#inspect/question.ts";
import { momentOf } from "../flows.ts";
import { usage } from "../outcome.ts";
import { askerOf } from "../question.ts";

export type ObservationOptions = {
  readonly run: readonly string[];
  readonly kubeconfig?: string;
  readonly context?: string;
  /** Who asks in a cluster: see `trackbed flows`. */
  readonly account?: string;
  /** Lines of `trackbed flows -o json`. */
  readonly flows: readonly string[];
  readonly since?: string;
};

/** Lines that cannot be read make it fail: what was not understood was not replayed either. */
export async function readObservations(options: ObservationOptions): Promise<Observations> {
  const gatherer = gatherObserved();
  if (options.flows.length > 0) {
    if (options.since !== undefined) throw usage("--since is for what nodes keep: a file of --flows is read whole");
    for (const file of options.flows) await readFile(file, gatherer.line);
  } else await askNodes(options, gatherer.line);
  const seen = gatherer.done();
  if (seen.unread > 0) throw usage(`${seen.unread} lines are no flow records; the first: ${seen.unreadExample}`);
  return seen;
}

/** Edges first: the records of the last minutes know the addresses that they do not keep, and what no node has counted yet. */
async function askNodes(options: ObservationOptions, take: (line: string) => void): Promise<void> {
  const asker = await askerOf(options, options.account ?? null);
  const since = momentOf("--since", options.since);
  const stop = new AbortController();
  try {
    for (const about of ["edges", "flows"] as const)
      for await (const line of asker.ask(readQuestion({ about, since }), stop.signal)) take(JSON.stringify(line));
  } finally {
    await asker.close();
  }
}

async function readFile(file: string, take: (line: string) => void): Promise<void> {
  const input = file === "-" ? process.stdin : createReadStream(file);
  try {
    for await (const line of createInterface({ input })) take(line);
  } catch (error) {
    throw usage(`--flows ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}
