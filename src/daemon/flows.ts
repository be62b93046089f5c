// The last flow records and events of this node, for whoever wants to follow them: bounded, and a slow reader loses the oldest.
import type { ReportBatch } from "#contract/gen/engine_pb.ts";
import { type EngineEvent, type FlowLine, type FlowRecord, projectEvent, projectFlow } from "#inspect/flow.ts";
import { meshError } from "#mesh/error.ts";

type Entry = { readonly sequence: number; readonly time: number } & ({ readonly flow: FlowRecord } | { readonly event: EngineEvent });

export type Flows = {
  readonly received: number;
  readonly droppedByEngine: number;
  readonly kept: number;
  /** Throws for a record that is not in the contract. */
  take(batch: ReportBatch): void;
  /** Lines from `since` (Unix milliseconds) on; with `follow` without an end, until `stop` is aborted. */
  read(options: { readonly since: number; readonly follow: boolean; readonly stop: AbortSignal }): AsyncGenerator<FlowLine>;
};

/** About a minute of a busy node; 8192 records are some 8 MB. */
const KEPT_RECORDS = 8192;

export function createFlows(keptRecords = KEPT_RECORDS): Flows {
  /** A ring: the entry of sequence n lies at n % keptRecords. Sequences start with 1. */
  const ring: Entry[] = [];
  let last = 0;
  let droppedByEngine = 0;
  const waiting = new Set<() => void>();

  const first = (): number => Math.max(1, last - keptRecords + 1);

  function keep(entry: { flow: FlowRecord } | { event: EngineEvent }, time: string): void {
    last++;
    ring[last % keptRecords] = { sequence: last, time: Date.parse(time), ...entry };
  }

  function take(batch: ReportBatch): void {
    droppedByEngine += Number(batch.dropped);
    for (const raw of batch.flows) {
      const flow = projectFlow(raw);
      if ("fault" in flow) throw meshError("E_CONTRACT_VERSION", `the engine sent a flow with an unknown ${flow.fault}`);
      keep({ flow }, endOf(flow));
    }
    for (const raw of batch.events) {
      const event = projectEvent(raw);
      keep({ event }, event.time);
    }
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
        at++;
        if (entry.time >= since) yield lineOf(entry);
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

/** A record is about the moment of its phase: a long connection that ends now is news. */
function endOf(flow: FlowRecord): string {
  if (flow.phase === "opened") return flow.start;
  return new Date(Date.parse(flow.start) + flow.durationMicroseconds / 1000).toISOString();
}

const lineOf = (entry: Entry): FlowLine =>
  "flow" in entry
    ? { type: "flow", sequence: entry.sequence, flow: entry.flow }
    : { type: "event", sequence: entry.sequence, event: entry.event };
