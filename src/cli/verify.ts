// `trackbed verify SRC DST`: whether what two workloads say to each other is mutual TLS now, by every connection that was seen of both ends.
import type { FlowRecord } from "#inspect/flow.ts";
import { readQuestion } from "#inspect/question.ts";
import { type AskingOptions, momentOf, tell } from "./flows.ts";
import { type Exit, exit, type Format, usage } from "./outcome.ts";
import { askerOf } from "./question.ts";
import { paint, table } from "./table.ts";

export type Verification = {
  /** Null: nothing was seen, so nothing is proven. */
  readonly proven: boolean | null;
  readonly connections: number;
  /** What was not in mutual TLS, and why. */
  readonly against: readonly { readonly flow: FlowRecord; readonly why: string }[];
  readonly ways: readonly Way[];
  /** Nodes whose records are not among these. */
  readonly missing: readonly { readonly node: string; readonly reason: string }[];
};

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

export async function runVerify(source: string, destination: string, options: AskingOptions, format: Format): Promise<Exit> {
  const filter = `${endFilter("source", source)} && ${endFilter("destination", destination)} && verdict != denied && !request`;
  const namespaces = options.namespace === undefined ? null : [options.namespace];
  const question = readQuestion({ about: "flows", filter, since: momentOf("--since", options.since), namespaces });
  const asker = await askerOf(options, options.account ?? null);
  const flows: FlowRecord[] = [];
  const missing: { node: string; reason: string }[] = [];
  try {
    for await (const line of asker.ask(question, new AbortController().signal)) {
      if (line.type === "missing") missing.push({ node: line.node, reason: line.reason });
      else tell(line, (one) => one.type === "flow" && flows.push(one.flow));
    }
  } finally {
    await asker.close();
  }
  const found = verified(flows, missing);
  console.log(format === "json" ? JSON.stringify(found, null, 2) : page(source, destination, found));
  return found.proven === true ? exit.ok : exit.failed;
}

/** "shop/web" or a SPIFFE identity. */
function endFilter(side: "source" | "destination", text: string): string {
  if (text.startsWith("spiffe://") && !text.includes('"')) return `${side}.identity == "${text}"`;
  const [namespace, workload, ...rest] = text.split("/");
  if (!isName(namespace) || !isName(workload) || rest.length > 0) throw usage(`${text} is neither NAMESPACE/WORKLOAD nor spiffe://…`);
  return `${side}.namespace == "${namespace}" && ${side}.workload == "${workload}"`;
}

const isName = (text: string | undefined): boolean => text !== undefined && /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(text);

/** A connection is told of when it opens and when it closes, from both sides: each is looked at once. */
export function verified(flows: readonly FlowRecord[], missing: Verification["missing"]): Verification {
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
    proven: carried.length === 0 ? null : against.length === 0 && missing.length === 0,
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

function page(source: string, destination: string, { proven, connections, against, ways, missing }: Verification): string {
  const verdict =
    proven === null
      ? paint(`nothing was seen from ${source} to ${destination}: nothing is proven`, "yellow")
      : proven
        ? paint(`${connections} connections from ${source} to ${destination}, all with both ends proven`, "green")
        : paint(
            `not proven: ${against.length} of ${connections} connections were not mutual TLS${missing.length > 0 ? ", and nodes are missing" : ""}`,
            "red",
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
