// `trackbed flows`: who talked to whom, by which path, and what decided, from all nodes at once, and what waypoints say of each request.
import { setTimeout as sleep } from "node:timers/promises";
import type { AuditRecord, FlowEndpoint, FlowLine, FlowRecord, RequestRecord } from "#inspect/flow.ts";
import { backoff } from "#xds/backoff.ts";
import { type Daemon, findDaemons, flows, labControls } from "./daemons.ts";
import { type Exit, exit, type Format, isDaemonAway } from "./outcome.ts";
import { paint, table } from "./table.ts";

export type FlowsOptions = { readonly follow: boolean; readonly namespace?: string; readonly verdict?: FlowRecord["verdict"] };

/** A restarted daemon listens again within a second; one that stays away is asked rarely. */
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;

const HEADER = ["TIME", "PHASE", "SOURCE", "DESTINATION", "SERVICE", "SIDE", "PATH", "VERDICT", "SENT", "RECEIVED", "WHY"];

export async function runFlows(runs: readonly string[], options: FlowsOptions, format: Format): Promise<Exit> {
  const named = runs.length > 0 || (process.env["TRACKBED_RUN"] ?? "") !== "";
  const daemons = [...findDaemons(runs), ...(named ? [] : labControls())];
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
  await Promise.all(daemons.map((daemon) => followOne(daemon, (line) => isWanted(line, options) && print(line), stop)));
}

/** A daemon that was there once is waited for: records begin anew with its successor, which keeps none of the old. */
async function followOne(daemon: Daemon, take: (line: FlowLine) => void, stop: AbortSignal): Promise<void> {
  const wait = backoff(Math.random, FIRST_RETRY_MS, LAST_RETRY_MS);
  for (let met = false, told = false; !stop.aborted; ) {
    try {
      for await (const line of flows(daemon, true, stop, connected)) take(line);
    } catch (error) {
      if (!met || !(isDaemonAway(error) || isBroken(error))) throw error;
    }
    if (stop.aborted) return;
    if (!told) console.error(`trackbed: the daemon at ${daemon.run} ended; waiting for it to come back`);
    told = true;
    await sleep(wait.next(), undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop

    function connected(): void {
      if (told) console.error(`trackbed: the daemon at ${daemon.run} is back`);
      [met, told] = [true, false];
      wait.reset();
    }
  }
}

/** The connection ended in the middle of an answer. */
const isBroken = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "ECONNRESET";

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
  if (line.type === "malformed") return ["", "malformed", `record ${line.sequence} cannot be read: ${line.fault}`, "E_CONTRACT_VERSION"];
  if (line.type === "event") return [line.event.time, line.event.level, line.event.message, line.event.code ?? ""];
  const { start, phase, source, destination, service, direction, path, verdict, bytesSent, bytesReceived } = line.flow;
  const painted = paint(verdict, VERDICT_STYLE[verdict]);
  const bytes = [bytesSent, bytesReceived].map((count) => (phase === "opened" ? "-" : String(count)));
  return [start, phase, end(source), end(destination), service ?? "-", direction, path ?? "-", painted, ...bytes, why(line.flow)];
}

/** The proven identity, shortened to what tells; else the pod's name; else the address. */
function end({ identity, namespace, pod, address, port }: FlowEndpoint): string {
  const where = `${address.includes(":") ? `[${address}]` : address}:${port}`;
  const name = pod === null ? "" : `${namespace ?? "?"}/${pod}`;
  return [identity ?? "", name, where].filter(Boolean).join(" ");
}

function why({ policy, rule, code, reason, request, audit }: FlowRecord): string {
  const by = policy === null ? "" : `${policy} rule ${rule ?? 0}`;
  return [request === null ? "" : said(request), code ?? "", by, reason ?? "", audit === null ? "" : would(audit)]
    .filter(Boolean)
    .join(": ");
}

/** A dry-run ALLOW denies by none of its rules. */
const would = ({ verdict, policy, rule, code }: AuditRecord): string =>
  `dry run: ${verdict} by ${policy ?? "no policy"}${code === "E_POLICY_NO_ALLOW" ? "" : ` rule ${rule ?? 0}`}`;

/** Such as "GET shop.example/cart 503 UF,URX HTTPRoute/shop/cart/0 2 retries". */
function said({ method, authority, path, status, grpcStatus, flags, route, retries }: RequestRecord): string {
  const answer = grpcStatus === null ? `${status ?? "no answer"}` : `${status ?? "no answer"} grpc ${grpcStatus}`;
  const again = retries === 0 ? "" : `${retries} ${retries === 1 ? "retry" : "retries"}`;
  return [method, `${authority}${path}`, answer, flags.join(","), route ?? "", again].filter(Boolean).join(" ");
}
