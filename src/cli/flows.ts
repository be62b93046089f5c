// `trackbed flows`: who talked to whom, by which path, and what decided, from all nodes at once, and what waypoints say of each request.
import type { AuditRecord, FlowEndpoint, FlowLine, FlowRecord, RequestRecord } from "#inspect/flow.ts";
import { quantile } from "#inspect/ledger/latency.ts";
import { type AnswerLine, type GroupRow, type Question, readQuestion } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import { parseDuration } from "./cluster/wait.ts";
import { type Exit, exit, type Format, usage } from "./outcome.ts";
import { askerOf } from "./question.ts";
import { paint, table } from "./table.ts";
import type { Where } from "./where.ts";

/** What `flows`, `top` and `verify` have in common. */
export type AskingOptions = Where & {
  readonly namespace?: string;
  /** "10m", or RFC 3339. */
  readonly since?: string;
  readonly account?: string;
};

export type FlowsOptions = AskingOptions & {
  readonly follow: boolean;
  readonly filter?: string;
  readonly verdict?: FlowRecord["verdict"];
  readonly until?: string;
  readonly limit?: string;
  /** Fields between commas: edges are added up by them, in the place of records. */
  readonly by?: string;
  readonly step?: string;
};

const HEADER = ["TIME", "PHASE", "SOURCE", "DESTINATION", "SERVICE", "SIDE", "PATH", "PROTOCOL", "VERDICT", "SENT", "RECEIVED", "WHY"];

export async function runFlows(options: FlowsOptions, format: Format): Promise<Exit> {
  const question = questionOf(options);
  const asker = await askerOf(options, options.account ?? null);
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort()).once("SIGTERM", () => stop.abort());
  try {
    const lines = asker.ask(question, stop.signal);
    if (format === "json") for await (const line of lines) console.log(JSON.stringify(line));
    else if (question.about === "flows" && question.follow)
      for await (const line of lines) tell(line, (one) => console.log(cells(one).join("  ")));
    else await page(question, lines);
    return exit.ok;
  } finally {
    await asker.close();
  }
}

async function page(question: Question, lines: AsyncGenerator<AnswerLine>): Promise<void> {
  const flows: FlowLine[] = [];
  const groups: GroupRow[] = [];
  for await (const line of lines) {
    if (line.type === "group") groups.push(line);
    else tell(line, (one) => flows.push(one));
  }
  if (question.about === "flows") console.log(table(HEADER, flows.map(cells)));
  else if (question.about === "edges") console.log(groupTable(question.by ?? [], groups));
}

/** What is not a record is told beside the answer, where a pipe does not see it. */
export function tell(line: AnswerLine, take: (line: FlowLine) => void): void {
  if (line.type === "missing") console.error(`trackbed: without ${line.node}: ${line.reason}`);
  else if (line.type === "cut") console.error(`trackbed: there are more than these ${line.limit}; a filter or --limit asks for others`);
  else if (line.type === "flow" || line.type === "event" || line.type === "dropped" || line.type === "malformed") take(line);
}

export function questionOf(options: FlowsOptions): Question {
  const { filter = "", verdict, namespace, limit, by, step, follow } = options;
  const both = [filter === "" ? "" : `(${filter})`, verdict === undefined ? "" : `verdict == ${verdict}`].filter(Boolean);
  const common = {
    since: momentOf("--since", options.since),
    until: momentOf("--until", options.until),
    filter: both.length > 1 ? both.join(" && ") : verdict === undefined ? filter : (both[0] ?? ""),
    namespaces: namespace === undefined ? null : [namespace],
    ...(limit === undefined ? {} : { limit: Number(limit) }),
  };
  if (by === undefined && step !== undefined) throw usage("--step goes with --by");
  if (by !== undefined && follow) throw usage("--by adds up what was; --follow tells what comes: say one of them");
  try {
    if (by === undefined) return readQuestion({ ...common, about: "flows", follow });
    const seconds = step === undefined ? 0 : (parseDuration(step) ?? Number.NaN) / 1000;
    return readQuestion({ ...common, about: "edges", by: by.split(",").filter(Boolean), step: seconds });
  } catch (error) {
    throw isMeshError(error) ? usage(error.message) : error;
  }
}

/** Unix milliseconds of "10m" (ago) or of a time. */
export function momentOf(option: string, text: string | undefined, now = Date.now()): number | null {
  if (text === undefined) return null;
  const ago = parseDuration(text);
  const at = ago === null ? Date.parse(text) : now - ago;
  if (Number.isNaN(at)) throw usage(`${option} ${text} is neither a time such as 10m nor one such as 2026-01-31T12:00:00Z`);
  return at;
}

function groupTable(by: readonly string[], rows: readonly GroupRow[]): string {
  const several = new Set(rows.map(({ time }) => time)).size > 1;
  const header = [
    ...(several ? ["FROM"] : []),
    ...by.map((name) => name.toUpperCase()),
    "COUNT",
    "FAILED",
    "P50",
    "P99",
    "SENT",
    "RECEIVED",
  ];
  const line = (row: GroupRow): string[] => [
    ...(several ? [row.time] : []),
    ...by.map((name) => String(row.group[name] ?? "-")),
    String(row.count),
    paint(String(row.failed), row.failed > 0 ? "red" : "dim"),
    spell(quantile(row.latency, 0.5)),
    spell(quantile(row.latency, 0.99)),
    String(row.bytesSent),
    String(row.bytesReceived),
  ];
  return table(header, rows.map(line));
}

/** Two digits that matter: nobody compares a bucket's microseconds. */
export function spell(microseconds: number | null): string {
  if (microseconds === null) return "-";
  if (microseconds < 1000) return `${Math.round(microseconds)}µs`;
  if (microseconds < 1e6) return `${Number((microseconds / 1000).toPrecision(2))}ms`;
  return `${Number((microseconds / 1e6).toPrecision(2))}s`;
}

const VERDICT_STYLE = { allowed: "green", denied: "red", failed: "yellow" } as const;

function cells(line: FlowLine): string[] {
  if (line.type === "dropped") return ["", "dropped", `${line.count} records are missing here: a queue was full`];
  if (line.type === "malformed") return ["", "malformed", `record ${line.sequence} cannot be read: ${line.fault}`, "E_CONTRACT_VERSION"];
  if (line.type === "event") return [line.event.time, line.event.level, line.event.message, line.event.code ?? ""];
  const { start, phase, source, destination, service, direction, path, verdict, bytesSent, bytesReceived } = line.flow;
  const protocol = line.flow.request?.protocol ?? line.flow.protocol ?? "-";
  const painted = paint(verdict, VERDICT_STYLE[verdict]);
  const bytes = [bytesSent, bytesReceived].map((count) => (phase === "opened" ? "-" : String(count)));
  return [start, phase, end(source), end(destination), service ?? "-", direction, path ?? "-", protocol, painted, ...bytes, why(line.flow)];
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
