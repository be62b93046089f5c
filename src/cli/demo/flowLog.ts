// Every flow record that the nodes report from now on, to wait for the one that must come.
import type { FlowRecord } from "#inspect/flow.ts";
import type { NodePlace } from "../../lab/api.ts";
import { until } from "../../lab/until.ts";
import { flows } from "../daemons.ts";

// The shop makes some fifty records a second; a demo of five minutes stays far below.
const LONGEST_LOG = 50_000;

export type FlowLog = {
  /** How many records there are: pass it to `find` to look only at later ones. */
  mark(): number;
  /** The first record after the mark that fits; rejects with `what` and the nearest misses when none comes in time. */
  find(what: string, fits: (flow: FlowRecord) => boolean, since?: number, deadlineMs?: number): Promise<FlowRecord>;
  stop(): void;
};

export function followFlows(nodes: readonly NodePlace[]): FlowLog {
  const records: FlowRecord[] = [];
  const faults: string[] = [];
  const stop = new AbortController();
  for (const node of nodes) {
    read(node, records, stop.signal).catch((error: unknown) => faults.push(`flows of ${node.name}: ${String(error)}`));
  }
  return {
    mark: () => records.length,
    find: (what, fits, since = 0, deadlineMs = 5000) =>
      until(
        `a flow record of ${what}`,
        () => records.slice(since).find(fits),
        deadlineMs,
        () =>
          [...faults, `${records.length - since} records came, the last denied or failed: ${lastTrouble(records.slice(since))}`].join("\n"),
      ),
    stop: () => stop.abort(),
  };
}

async function read(node: NodePlace, records: FlowRecord[], stop: AbortSignal): Promise<void> {
  for await (const line of flows({ run: node.runDirectory }, true, stop)) {
    if (line.type === "flow" && records.length < LONGEST_LOG) records.push(line.flow);
  }
}

function lastTrouble(records: readonly FlowRecord[]): string {
  const record = records.findLast(({ verdict }) => verdict !== "allowed");
  return record === undefined ? "none" : JSON.stringify(record);
}
