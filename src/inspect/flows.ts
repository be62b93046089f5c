// The last flow records and events of a node, or of waypoints, for whoever wants to follow them: bounded, and a slow reader loses the oldest.
import type { Event, ReportBatch } from "#contract/gen/engine_pb.ts";
import { type FlowLine, momentOf, projectEvent, readFlow } from "./flow.ts";

/** `arrived`: Unix milliseconds. */
type Entry = { readonly arrived: number } & ({ readonly flow: Uint8Array } | { readonly event: Event });

export type Flows = {
  readonly received: number;
  readonly droppedByEngine: number;
  readonly kept: number;
  /** Keeps the batch's bytes; the batch must not be changed afterwards. */
  take(batch: ReportBatch): void;
  /** Lines from `since` (Unix milliseconds) on; with `follow` without an end, until `stop` is aborted. */
  read(options: { readonly since: number; readonly follow: boolean; readonly stop: AbortSignal }): AsyncGenerator<FlowLine>;
};

/** About a minute of a busy node; 8192 records are some 4 MB. */
const KEPT_RECORDS = 8192;

export function createFlows(keptRecords = KEPT_RECORDS): Flows {
  /**
   * A ring: the entry of sequence n lies at n % keptRecords. Sequences start with 1. Records stay as the engine encoded them: there are two for
   * each connection, few are ever read, and decoding is what would cost.
   */
  const ring: Entry[] = [];
  let last = 0;
  let droppedByEngine = 0;
  const waiting = new Set<() => void>();

  const first = (): number => Math.max(1, last - keptRecords + 1);

  function keep(entry: Entry): void {
    last++;
    ring[last % keptRecords] = entry;
  }

  function take(batch: ReportBatch): void {
    const arrived = Date.now();
    droppedByEngine += Number(batch.dropped);
    for (const flow of batch.flows) keep({ arrived, flow });
    for (const event of batch.events) keep({ arrived, event });
    for (const wake of waiting) wake();
    waiting.clear();
  }

  async function* read({ since, follow, stop }: { since: number; follow: boolean; stop: AbortSignal }): AsyncGenerator<FlowLine> {
    let at = first();
    while (!stop.aborted) {
      if (at < first()) {
        yield { type: "dropped", count: first() - at };
        at = first();
      }
      const entry = at <= last ? ring[at % keptRecords] : undefined;
      if (entry !== undefined) {
        // Nothing that arrived before is about a later moment, and need not be decoded.
        const line = entry.arrived < since ? null : lineSince(since, at, entry);
        at++;
        if (line !== null) yield line;
      } else if (!follow) return;
      else await more(stop);
    }
  }

  function more(stop: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        waiting.delete(wake);
        stop.removeEventListener("abort", wake);
        resolve();
      };
      waiting.add(wake);
      stop.addEventListener("abort", wake);
    });
  }

  return {
    get received() {
      return last;
    },
    get droppedByEngine() {
      return droppedByEngine;
    },
    get kept() {
      return last - first() + 1;
    },
    take,
    read,
  };
}

/** The line of an entry, null when it is about a moment before `since`. What nobody can read has no moment and is told in any case. */
function lineSince(since: number, sequence: number, entry: Entry): FlowLine | null {
  if ("event" in entry) {
    const event = projectEvent(entry.event);
    return Date.parse(event.time) < since ? null : { type: "event", sequence, event };
  }
  const flow = readFlow(entry.flow);
  if ("fault" in flow) return { type: "malformed", sequence, fault: flow.fault };
  return momentOf(flow) < since ? null : { type: "flow", sequence, flow };
}
