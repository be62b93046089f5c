// Carries flow records to where they are wanted: a reader of the ring like any other, so that whoever takes too little loses the oldest, is told
// how many, and holds up nobody.
import { setTimeout as sleep } from "node:timers/promises";
import { parseFilter } from "../filter.ts";
import type { FlowLine } from "../flow.ts";
import type { Flows } from "../flows.ts";
import { flowFields } from "../ledger/fields.ts";

/** Takes lines for good. It waits as long as it takes, and says how many nobody will ever see; rejects only when `stop` is aborted. */
export type Sink = {
  readonly name: string;
  take(lines: readonly FlowLine[], stop: AbortSignal): Promise<{ readonly refused: number }>;
};

/** Of one sink, since the start. */
export type Exported = {
  readonly sink: string;
  /** Records that it took. */
  readonly taken: number;
  /** Records that were overwritten before they were read (whatever the filter would have said of them). */
  readonly missed: number;
  /** Records that it will never take. */
  readonly refused: number;
};

export type Exporter = { counts(): readonly Exported[]; run(stop: AbortSignal): Promise<void> };

/** Some 500 KB of OTLP: below what collectors take by default (4 MiB of gRPC). */
const BATCH_LINES = 512;
/** Nobody looks at a log within less. */
const LINGER_MS = 1000;

export function createExporter(flows: Pick<Flows, "read">, filter: string, sinks: readonly Sink[], lingerMs = LINGER_MS): Exporter {
  const matches = parseFilter(filter, flowFields);
  const counts = sinks.map(({ name }) => ({ sink: name, taken: 0, missed: 0, refused: 0 }));

  async function follow(sink: Sink, index: number, stop: AbortSignal): Promise<void> {
    const count = counts[index];
    if (count === undefined) return;
    async function* wanted(): AsyncGenerator<FlowLine> {
      for await (const line of flows.read({ since: 0, follow: true, stop })) {
        if (line.type === "dropped" && count !== undefined) count.missed += line.count;
        if (line.type !== "flow" || matches(line.flow)) yield line;
      }
    }
    for await (const lines of batches(wanted(), BATCH_LINES, lingerMs, stop)) {
      const { refused } = await sink.take(lines, stop);
      count.refused += refused;
      count.taken += lines.length - refused;
    }
  }

  return {
    counts: () => counts.map((count) => ({ ...count })),
    run: async (stop) => {
      await Promise.all(
        sinks.map((sink, index) =>
          follow(sink, index, stop).catch((error: unknown) => {
            if (!stop.aborted) throw error;
          }),
        ),
      );
    },
  };
}

/** Lines that come within `lingerMs` of the first go together. */
async function* batches<T>(lines: AsyncGenerator<T>, most: number, lingerMs: number, stop: AbortSignal): AsyncGenerator<T[]> {
  let next = lines.next();
  for (let first = await next; first.done !== true; first = await next) {
    const batch = [first.value];
    next = lines.next();
    const over = new AbortController();
    const late = sleep(lingerMs, null, { signal: AbortSignal.any([stop, over.signal]) }).catch(() => null); // the end is as good as late
    while (batch.length < most) {
      const more = await Promise.race([next, late]);
      if (more === null || more.done === true) break;
      batch.push(more.value);
      next = lines.next();
    }
    over.abort();
    yield batch;
  }
}
