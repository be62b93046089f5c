// `trackbed verify SRC DST`: whether what two workloads say to each other is mutual TLS now, by every connection that was seen of both ends, and by
// what is on the wire between them.
import type { FlowRecord } from "#inspect/flow.ts";
import { type AnswerLine, readQuestion, WATCHED_ADDRESSES, WATCHED_PODS } from "#inspect/question.ts";
import { parseDuration } from "./cluster/wait.ts";
import { type AskingOptions, momentOf, tell } from "./flows.ts";
import { type Exit, exit, type Format, usage } from "./outcome.ts";
import { askerOf } from "./question.ts";
import { paint, table } from "./table.ts";

/** As long as a node watches for one question. */
const LONGEST_WATCH_MS = 30_000;

export type Verification = {
  /** Null: nothing was seen, so nothing is proven. */
  readonly proven: boolean | null;
  /** What the tunnels' port carried between them while it was watched, at each pod. */
  readonly wire: readonly Wire[];
  readonly connections: number;
  /** What was not in mutual TLS, and why. */
  readonly against: readonly { readonly flow: FlowRecord; readonly why: string }[];
  readonly ways: readonly Way[];
  /** Nodes whose records are not among these. */
  readonly missing: readonly { readonly node: string; readonly reason: string }[];
};

export type Wire = { readonly node: string; readonly pod: string } & NonNullable<(AnswerLine & { type: "frames" })["counts"]>;

/** Connections that were protected alike. */
export type Way = {
  readonly seenAt: "source" | "destination";
  readonly path: "tunnel" | "relay";
  readonly source: string;
  readonly destination: string;
  readonly tls: string;
  /** Of the peer's certificate: the server's at the source, the client's at the destination. */
  readonly serials: readonly string[];
  readonly connections: number;
};

export type VerifyOptions = AskingOptions & { readonly watch: string };

export async function runVerify(source: string, destination: string, options: VerifyOptions, format: Format): Promise<Exit> {
  const watchMs = options.watch === "0s" ? 0 : (parseDuration(options.watch) ?? Number.NaN);
  if (!(watchMs >= 0 && watchMs <= LONGEST_WATCH_MS)) throw usage(`--watch ${options.watch}: expected 0s to 30s`);
  const filter = `${endFilter("source", source)} && ${endFilter("destination", destination)} && verdict != denied && !request`;
  const namespaces = options.namespace === undefined ? null : [options.namespace];
  const question = readQuestion({ about: "flows", filter, since: momentOf("--since", options.since), namespaces });
  const asker = await askerOf(options, options.account ?? null);
  const flows: FlowRecord[] = [];
  const missing: { node: string; reason: string }[] = [];
  const wire: Wire[] = [];
  try {
    for await (const line of asker.ask(question, new AbortController().signal)) {
      if (line.type === "missing") missing.push({ node: line.node, reason: line.reason });
      else tell(line, (one) => one.type === "flow" && flows.push(one.flow));
    }
    const watched = watchMs === 0 ? null : watchOf(flows, options.namespace, watchMs);
    if (watched !== null) {
      if (format === "text") console.error(`trackbed: watching the wire between them for ${watchMs / 1000} s`);
      for await (const line of asker.ask(readQuestion(watched), new AbortController().signal)) {
        if (line.type === "frames" && line.counts !== null) wire.push({ node: line.node, pod: line.pod, ...line.counts });
        else if (line.type === "missing" && !missing.some(({ node }) => node === line.node))
          missing.push({ node: line.node, reason: `its wire was not watched: ${line.reason}` });
      }
    }
  } finally {
    await asker.close();
  }
  const found = verified(flows, missing, wire);
  console.log(format === "json" ? JSON.stringify(found, null, 2) : page(source, destination, found));
  return found.proven === true ? exit.ok : exit.failed;
}

/** The pods that were seen to talk by tunnel, and their addresses; null without any. Pods of other namespaces are not asked about where one was named. */
function watchOf(flows: readonly FlowRecord[], namespace: string | undefined, milliseconds: number): object | null {
  const ends = flows.filter(({ path }) => path === "tunnel").flatMap(({ source, destination }) => [source, destination]);
  const pods = new Map<string, { readonly namespace: string; readonly name: string }>();
  for (const { namespace: own, pod } of ends)
    if (own !== null && pod !== null && (namespace === undefined || own === namespace) && pods.size < WATCHED_PODS)
      pods.set(`${own}/${pod}`, { namespace: own, name: pod });
  const between = [...new Set(ends.map(({ address }) => address))].filter((address) => address !== "").slice(0, WATCHED_ADDRESSES);
  return pods.size === 0 ? null : { about: "frames", pods: [...pods.values()], between, milliseconds };
}

/** "shop/web" or a SPIFFE identity. */
function endFilter(side: "source" | "destination", text: string): string {
  if (text.startsWith("spiffe://") && !text.includes('"')) return `${side}.identity == "${text}"`;
  const [namespace, workload, ...rest] = text.split("/");
  if (!isName(namespace) || !isName(workload) || rest.length > 0) throw usage(`${text} is neither NAMESPACE/WORKLOAD nor spiffe://…`);
  return `${side}.namespace == "${namespace}" && ${side}.workload == "${workload}"`;
}

const isName = (text: string | undefined): boolean => text !== undefined && /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(text);

const WIRE_HEADER = ["POD", "NODE", "FRAMES", "TLS RECORDS", "TLS BYTES", "NOT TLS", "UNKNOWN", "MISSED", "UNWATCHED"];

/** A connection is told of when it opens and when it closes, from both sides: each is looked at once. */
export function verified(flows: readonly FlowRecord[], missing: Verification["missing"], wire: readonly Wire[] = []): Verification {
  const last = new Map(flows.map((flow) => [`${flow.podUid} ${flow.direction} ${flow.id} ${flow.start}`, flow]));
  // What failed before a byte could go anywhere proves nothing and breaks nothing.
  const carried = [...last.values()].filter(
    ({ verdict, bytesSent, bytesReceived }) => verdict === "allowed" || bytesSent + bytesReceived > 0,
  );
  const against = carried.flatMap((flow) => {
    const why = weakness(flow);
    return why === null ? [] : [{ flow, why }];
  });
  const ways = Map.groupBy(
    carried.filter((flow) => weakness(flow) === null),
    ({ direction, path, source, destination, tls }) =>
      JSON.stringify([direction, path, source.identity, destination.identity, tls?.version, tls?.cipher, tls?.group]),
  );
  return {
    proven: carried.length === 0 ? null : against.length === 0 && missing.length === 0 && wire.every(({ otherBytes }) => otherBytes === 0),
    wire,
    connections: carried.length,
    against,
    ways: [...ways.values()].map(wayOf),
    missing,
  };
}

/** Null when both ends were proven and nobody on the wire could read or change it. */
function weakness({ path, tls, source, destination, direction }: FlowRecord): string | null {
  if (path === "plain" || path === null) return "it was plain TCP";
  if (path === "relay") return source.identity === null ? "the source was not proven" : null;
  if (tls === null) return "the tunnel tells of no TLS";
  if (tls.version !== "TLSv1.3") return `${tls.version}`;
  const peer = direction === "inbound" ? source.identity : destination.identity;
  return peer === null || tls.peerSerial === "" ? "the peer showed no certificate" : null;
}

function wayOf(flows: readonly FlowRecord[]): Way {
  const [first] = flows;
  const { direction, path, source, destination, tls } = first as FlowRecord;
  return {
    seenAt: direction === "outbound" ? "source" : "destination",
    path: path === "relay" ? "relay" : "tunnel",
    source: source.identity ?? "-",
    destination: destination.identity ?? "-",
    tls: tls === null ? "both pods are on one node: no wire, no TLS" : `${tls.version} ${tls.cipher} ${tls.group}`,
    serials: [...new Set(flows.flatMap(({ tls }) => (tls === null ? [] : [tls.peerSerial])))].sort(),
    connections: flows.length,
  };
}

function page(source: string, destination: string, { proven, connections, against, ways, missing, wire }: Verification): string {
  const plain = wire.reduce((sum, { otherBytes }) => sum + otherBytes, 0);
  const verdict =
    proven === null
      ? paint(`nothing was seen from ${source} to ${destination}: nothing is proven`, "yellow")
      : proven
        ? paint(`${connections} connections from ${source} to ${destination}, all with both ends proven`, "green")
        : paint(
            `not proven: ${against.length} of ${connections} connections were not mutual TLS${plain > 0 ? `, ${plain} bytes on the wire were not TLS` : ""}${missing.length > 0 ? ", and nodes are missing" : ""}`,
            "red",
          );
  const frames = wire.map((one) =>
    [one.pod, one.node, one.frames, one.records, one.tlsBytes, one.otherBytes, one.unknownBytes, one.missedBytes, one.unwatched].map(
      String,
    ),
  );
  const rows = ways.map((way) => [
    way.seenAt,
    way.path,
    String(way.connections),
    way.source,
    way.destination,
    way.tls,
    way.serials.join(" "),
  ]);
  return [
    verdict,
    rows.length === 0 ? "" : table(["SEEN AT", "PATH", "CONNECTIONS", "SOURCE", "DESTINATION", "TLS", "PEER'S SERIALS"], rows),
    frames.length === 0 ? "" : table(WIRE_HEADER, frames),
    wire.flatMap(({ pod, examples }) => examples.map((stream) => `${pod}: not TLS on ${stream}`)).join("\n"),
    against.length === 0
      ? ""
      : table(
          ["TIME", "FROM", "TO", "WHY NOT"],
          against.map(({ flow, why }) => [flow.start, flow.source.address, `${flow.destination.address}:${flow.destination.port}`, why]),
        ),
    ...missing.map(({ node, reason }) => `without ${node}: ${reason}`),
  ]
    .filter(Boolean)
    .join("\n\n");
}
