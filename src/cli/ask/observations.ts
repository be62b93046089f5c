// What was seen, from where it was told to look: files of JSON lines, or the daemons that run here.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { gatherObserved, type Observations } from "#inspect/observed.ts";
import { askAll, findDaemons, flows } from "../daemons.ts";
import { usage } from "../outcome.ts";

export type ObservationOptions = {
  readonly run: readonly string[];
  /** Lines of `trackbed flows -o json`. */
  readonly flows: readonly string[];
  readonly since?: string;
};

/** Lines that cannot be read make it fail: what was not understood was not replayed either. */
export async function readObservations(options: ObservationOptions): Promise<Observations> {
  const gatherer = gatherObserved();
  if (options.flows.length > 0) for (const file of options.flows) await readFile(file, gatherer.line);
  else {
    const stop = new AbortController();
    const { failures } = await askAll(findDaemons(options.run), async (daemon) => {
      for await (const line of flows(daemon, false, stop.signal)) gatherer.line(JSON.stringify(line));
    });
    const [failed] = failures;
    if (failed !== undefined) throw failed.error;
  }
  const seen = gatherer.done();
  if (seen.unread > 0) throw usage(`${seen.unread} lines are no flow records; the first: ${seen.unreadExample}`);
  return seen;
}

async function readFile(file: string, take: (line: string) => void): Promise<void> {
  const input = file === "-" ? process.stdin : createReadStream(file);
  try {
    for await (const line of createInterface({ input })) take(line);
  } catch (error) {
    throw usage(`--flows ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}
