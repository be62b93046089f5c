// Who was seen to talk to whom: lines of `trackbed flows -o json`, records or edges of the ledger, gathered by what policy tells apart.
import { z } from "zod";
import { gatherRequests, type ObservedRequest } from "./observed-requests.ts";

/** Connections that are alike for policy. */
export type Observed = {
  readonly source: {
    /** SPIFFE URI; null = plaintext. */
    readonly identity: string | null;
    readonly namespace: string | null;
    readonly workload: string | null;
    /** Empty where the record does not say; of many only some. */
    readonly addresses: readonly string[];
  };
  readonly destination: {
    readonly namespace: string | null;
    /** Names of pods, or of what made them. */
    readonly workload: string | null;
    readonly addresses: readonly string[];
  };
  /** Where the application listens. */
  readonly port: number;
  readonly service: string | null;
  readonly verdict: "allowed" | "denied" | "failed";
  readonly policy: string | null;
  readonly connections: number;
  /** RFC 3339, of the first and the last. */
  readonly first: string;
  readonly last: string;
};

export type Observations = {
  readonly edges: readonly Observed[];
  /** What waypoints decided, as far as their records hold what policies look at. */
  readonly requests: readonly ObservedRequest[];
  /** Rules of routes that requests took: "HTTPRoute/namespace/name/index". */
  readonly routes: readonly string[];
  /** Connections and requests that no edge tells apart, because there were too many edges. */
  readonly unnamed: number;
  /** Lines that were not understood, and the first of them. */
  readonly unread: number;
  readonly unreadExample: string | null;
  /** Whose part is not in it, and why. */
  readonly missing: readonly string[];
};

export type Gatherer = { line(text: string): void; done(): Observations };

/** A mesh of 10,000 workloads has fewer; what is beyond is counted. */
const MOST_EDGES = 500_000;
/** Addresses of one edge that are asked about: replicas of one workload are told apart by policies of addresses alone. */
const MOST_ADDRESSES = 16;

const text = z.string().nullable().default(null);
const count = z.number().int().min(0);
const verdict = z.enum(["allowed", "denied", "failed"]);
const requestFacts = z.object({ route: text, method: text, authority: text, path: text, port: count.nullable().default(null) }).nullish();
const end = z.object({
  address: z.string().default(""),
  port: count.default(0),
  workload: text,
  namespace: text,
  identity: text,
  pod: text,
});
const flowRecord = z.object({
  id: z.string(),
  phase: z.enum(["opened", "closed"]),
  direction: z.enum(["outbound", "inbound"]),
  verdict,
  policy: text,
  code: text,
  start: z.string(),
  source: end,
  destination: end,
  service: text,
  podUid: z.string(),
  request: requestFacts,
});
const edgeEnd = z.object({ workload: text, namespace: text, identity: text });
const edgeAbout = z.object({
  reporter: z.enum(["source", "destination", "waypoint"]),
  verdict,
  policy: text,
  code: text,
  source: edgeEnd,
  destination: edgeEnd,
  service: text,
  port: count,
  request: requestFacts,
  other: z.boolean().default(false),
});
const answerLine = z.discriminatedUnion("type", [
  z.object({ type: z.literal("flow"), flow: flowRecord }),
  z.object({ type: z.literal("edge"), edge: edgeAbout, count, time: z.string(), seconds: z.number() }),
  z.object({ type: z.literal("missing"), node: z.string(), reason: z.string() }),
  z.object({ type: z.literal("cut"), limit: count }),
  z.object({ type: z.literal("dropped"), count }),
  ...(["event", "malformed", "answered", "group"] as const).map((type) => z.object({ type: z.literal(type) })),
]);

type Gathering = { -readonly [K in keyof Observed]: Observed[K] } & {
  readonly from: Set<string>;
  readonly to: Set<string>;
  /** The ledger has counted it: records of single connections only add what it does not keep. */
  readonly counted: boolean;
};

/** Both ends of a connection tell of it: only what the destination's engine said counts, which is whose policy decided. */
export function gatherObserved(): Gatherer {
  const edges = new Map<string, Gathering>();
  /** Of connections that are open: their closing record is the same connection. */
  const opened = new Set<string>();
  const routes = new Set<string>();
  const missing = new Set<string>();
  const requests = gatherRequests();
  let [unnamed, unread] = [0, 0];
  let unreadExample: string | null = null;

  function add(
    one: Omit<Observed, "connections" | "first" | "last">,
    connections: number,
    { first, last, counted }: { readonly first: string; readonly last: string; readonly counted: boolean },
  ): void {
    const { source, destination, port, verdict, policy } = one;
    const who =
      source.identity ?? `plaintext ${source.namespace}/${source.workload} ${source.workload === null ? source.addresses.join() : ""}`;
    const key = JSON.stringify([who, destination.namespace, destination.workload ?? destination.addresses, port, verdict, policy]);
    const known = edges.get(key);
    if (known === undefined) {
      if (edges.size >= MOST_EDGES) unnamed += connections;
      else
        edges.set(key, { ...one, connections, first, last, counted, from: new Set(source.addresses), to: new Set(destination.addresses) });
      return;
    }
    if (counted || !known.counted) known.connections += connections;
    if (first < known.first) known.first = first;
    if (last > known.last) known.last = last;
    for (const [kept, more] of [
      [known.from, source.addresses],
      [known.to, destination.addresses],
    ] as const)
      for (const address of more) if (kept.size < MOST_ADDRESSES) kept.add(address);
  }

  function takeFlow({ id, phase, podUid, direction, request, start, source, destination, ...rest }: z.output<typeof flowRecord>): void {
    if (request !== undefined && request !== null) {
      requests.record({ source, start, request, ...rest });
      if (request.route !== null) routes.add(request.route);
      return;
    }
    if (direction !== "inbound") return;
    const connection = `${podUid} ${id}`;
    if (phase === "closed" && opened.delete(connection)) return;
    if (phase === "opened") opened.add(connection);
    const known = (address: string): string[] => (address === "" ? [] : [address]);
    add(
      {
        source: { identity: source.identity, namespace: source.namespace, workload: source.workload, addresses: known(source.address) },
        destination: { namespace: destination.namespace, workload: destination.workload, addresses: known(destination.address) },
        port: destination.port,
        service: rest.service,
        verdict: rest.verdict,
        policy: rest.policy,
      },
      1,
      { first: start, last: start, counted: false },
    );
  }

  function takeEdge({
    edge,
    count,
    time,
    seconds,
  }: {
    edge: z.output<typeof edgeAbout>;
    count: number;
    time: string;
    seconds: number;
  }): void {
    const last = new Date(Date.parse(time) + seconds * 1000).toISOString();
    if (edge.reporter === "waypoint") {
      const { request } = edge;
      if (request == null || edge.other) unnamed += count;
      else if (count > 0) requests.edge({ ...edge, request }, { count, first: time, last });
      if (request?.route != null) routes.add(request.route);
    } else if (edge.other) unnamed += edge.reporter === "destination" ? count : 0;
    else if (edge.reporter === "destination" && count > 0) {
      const { source, destination, port, service, verdict, policy } = edge;
      const from = { identity: source.identity, namespace: source.namespace, workload: source.workload, addresses: [] };
      const to = { namespace: destination.namespace, workload: destination.workload, addresses: [] };
      add({ source: from, destination: to, port, service, verdict, policy }, count, { first: time, last, counted: true });
    }
  }

  return {
    line: (written) => {
      if (written.trim() === "") return;
      const parsed = answerLine.safeParse(parseJson(written));
      if (!parsed.success) {
        unread++;
        unreadExample ??= `${written.slice(0, 120)}: ${z.prettifyError(parsed.error).split("\n")[0] ?? ""}`;
      } else if (parsed.data.type === "flow") takeFlow(parsed.data.flow);
      else if (parsed.data.type === "edge") takeEdge(parsed.data);
      else if (parsed.data.type === "missing") missing.add(`${parsed.data.node}: ${parsed.data.reason}`);
      else if (parsed.data.type === "cut") missing.add(`there were more lines than ${parsed.data.limit}`);
    },
    done: () => ({
      requests: requests.done().requests,
      edges: [...edges.values()].map(({ from, to, counted: _, source, destination, ...rest }) => ({
        ...rest,
        source: { ...source, addresses: [...from].sort() },
        destination: { ...destination, addresses: [...to].sort() },
      })),
      routes: [...routes].sort(),
      unnamed: unnamed + requests.done().unnamed,
      unread,
      unreadExample,
      missing: [...missing].sort(),
    }),
  };
}

function parseJson(written: string): unknown {
  try {
    return JSON.parse(written);
  } catch {
    return undefined; // the schema says what was expected
  }
}
