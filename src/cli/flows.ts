// `trackbed flows`: who talked to whom, by which path, and what decided, from all nodes at once.
import type { FlowEndpoint, FlowLine, FlowRecord } from "#inspect/flow.ts";
import { type Daemon, findDaemons, flows } from "./daemons.ts";
import { type Exit, exit, type Format } from "./outcome.ts";
import { paint, table } from "./table.ts";

export type FlowsOptions = { readonly follow: boolean; readonly namespace?: string; readonly verdict?: FlowRecord["verdict"] };

const HEADER = ["TIME", "PHASE", "SOURCE", "DESTINATION", "SERVICE", "SIDE", "PATH", "VERDICT", "SENT", "RECEIVED", "WHY"];

export async function runFlows(runs: readonly string[], options: FlowsOptions, format: Format): Promise<Exit> {
  const daemons = findDaemons(runs);
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort()).once("SIGTERM", () => stop.abort());
  if (options.follow) await follow(daemons, options, format, stop.signal);
  else await list(daemons, options, format, stop.signal);
  return exit.ok;
}

async function list(daemons: readonly Daemon[], options: FlowsOptions, format: Format, stop: AbortSignal): Promise<void> {
  const read = daemons.map(async (daemon) => {
    const lines: FlowLine[] = [];
    for await (const line of flows(daemon, false, stop)) if (isWanted(line, options)) lines.push(line);
    return lines;
  });
  const lines = (await Promise.all(read)).flat().sort((a, b) => timeOf(a).localeCompare(timeOf(b)));
  if (format === "json") for (const line of lines) console.log(JSON.stringify(line));
  else console.log(table(HEADER, lines.map(cells)));
}

async function follow(daemons: readonly Daemon[], options: FlowsOptions, format: Format, stop: AbortSignal): Promise<void> {
  const print = (line: FlowLine): void => console.log(format === "json" ? JSON.stringify(line) : cells(line).join("  "));
  await Promise.all(
    daemons.map(async (daemon) => {
      for await (const line of flows(daemon, true, stop)) if (isWanted(line, options)) print(line);
    }),
  );
}

function isWanted(line: FlowLine, { namespace, verdict }: FlowsOptions): boolean {
  if (line.type !== "flow") return true; // what is missing and what went wrong concerns every filter
  const { source, destination } = line.flow;
  const inNamespace = namespace === undefined || source.namespace === namespace || destination.namespace === namespace;
  return inNamespace && (verdict === undefined || line.flow.verdict === verdict);
}

const timeOf = (line: FlowLine): string => (line.type === "flow" ? line.flow.start : line.type === "event" ? line.event.time : "");

const VERDICT_STYLE = { allowed: "green", denied: "red", failed: "yellow" } as const;

function cells(line: FlowLine): string[] {
  if (line.type === "dropped") return ["", "dropped", `${line.count} records are missing here: a queue was full`];
  if (line.type === "event") return [line.event.time, line.event.level, line.event.message, line.event.code ?? ""];
  const { start, phase, source, destination, service, direction, path, verdict, bytesSent, bytesReceived } = line.flow;
  const painted = paint(verdict, VERDICT_STYLE[verdict]);
  const bytes = [bytesSent, bytesReceived].map((count) => (phase === "opened" ? "-" : String(count)));
  return [start, phase, end(source), end(destination), service ?? "-", direction, path ?? "-", painted, ...bytes, why(line.flow)];
}

/** The proven identity, shortened to what tells; else the pod's name; else the address. */
function end({ identity, namespace, workload, address, port }: FlowEndpoint): string {
  const where = `${address.includes(":") ? `[${address}]` : address}:${port}`;
  const pod = workload === null ? "" : `${namespace ?? "?"}/${workload}`;
  return [identity ?? "", pod, where].filter(Boolean).join(" ");
}

function why({ policy, rule, code, reason }: FlowRecord): string {
  const by = policy === null ? "" : `${policy} rule ${rule ?? 0}`;
  return [code ?? "", by, reason ?? ""].filter(Boolean).join(": ");
}
