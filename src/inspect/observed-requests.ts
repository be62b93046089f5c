// Which requests waypoints were asked: lines of `trackbed flows -o json`, gathered by what policies of requests look at and records hold.
import type { FlowRecord } from "./flow.ts";
import type { Edge, EdgeEnd } from "./ledger/edge.ts";

/** Requests that are alike for policy, as far as they are recorded. Null: the record does not say. */
export type ObservedRequest = {
  readonly source: {
    /** SPIFFE URI; null = plaintext. */
    readonly identity: string | null;
    readonly namespace: string | null;
    readonly workload: string | null;
    /** Empty where the record does not say; of many only some. */
    readonly addresses: readonly string[];
  };
  /** "namespace/hostname"; null: a pod was asked by its own address. */
  readonly service: string | null;
  /** Of the service. */
  readonly port: number | null;
  readonly method: string | null;
  readonly authority: string | null;
  /** As the client sent it, without the query. */
  readonly path: string | null;
  readonly verdict: FlowRecord["verdict"];
  readonly policy: string | null;
  readonly code: string | null;
  readonly requests: number;
  /** RFC 3339, of the first and the last. */
  readonly first: string;
  readonly last: string;
};

export type RequestGatherer = {
  record(
    flow: Pick<FlowRecord, "service" | "verdict" | "policy" | "code" | "start"> & {
      readonly source: EdgeEnd & { readonly address: string };
      readonly request: Asked;
    },
  ): void;
  edge(
    edge: Pick<Edge, "source" | "service" | "verdict" | "policy" | "code"> & { readonly request: Asked },
    counted: { readonly count: number; readonly first: string; readonly last: string },
  ): void;
  done(): { readonly requests: readonly ObservedRequest[]; readonly unnamed: number };
};

type Asked = Pick<ObservedRequest, "port" | "method" | "authority" | "path">;
type Gathering = { -readonly [K in keyof Omit<ObservedRequest, "source">]: ObservedRequest[K] } & {
  readonly source: Omit<ObservedRequest["source"], "addresses">;
  readonly addresses: Set<string>;
  /** The ledger has counted it: records only add what it does not keep. */
  readonly counted: boolean;
};

/** A ledger keeps fewer; what is beyond is counted. */
const MOST_KINDS = 200_000;
const MOST_ADDRESSES = 16;
/** What an engine calls the methods that it does not tell apart. */
const OTHER_METHOD = "OTHER";

export function gatherRequests(): RequestGatherer {
  const kinds = new Map<string, Gathering>();
  let unnamed = 0;

  function add(one: Omit<Gathering, "addresses">, address: string): void {
    const { source, service, port, method, authority, path, verdict, policy, code } = one;
    const who = source.identity ?? `plaintext ${source.namespace}/${source.workload} ${source.workload === null ? address : ""}`;
    const key = JSON.stringify([who, service, port, method, authority, path, verdict, policy, code]);
    const known = kinds.get(key);
    if (known === undefined) {
      if (kinds.size >= MOST_KINDS) unnamed += one.requests;
      else kinds.set(key, { ...one, addresses: new Set(address === "" ? [] : [address]) });
      return;
    }
    if (one.counted || !known.counted) known.requests += one.requests;
    if (one.first < known.first) known.first = one.first;
    if (one.last > known.last) known.last = one.last;
    if (address !== "" && known.addresses.size < MOST_ADDRESSES) known.addresses.add(address);
  }

  return {
    record: ({ source, service, verdict, policy, code, start, request }) => {
      const { identity, namespace, workload, address } = source;
      const { port, method, authority, path } = request;
      const when = { first: start, last: start, requests: 1, counted: false };
      const asked = { service, port, method, authority, path, verdict, policy, code };
      add({ source: { identity, namespace, workload }, ...asked, ...when }, address);
    },
    edge: ({ source, service, verdict, policy, code, request }, { count, first, last }) => {
      const { identity, namespace, workload } = source;
      const { port, authority, path } = request;
      const method = request.method === OTHER_METHOD ? null : request.method;
      // A pod's service is its own address there.
      const named = service?.includes("/") === true ? service : null;
      const asked = { service: named, port, method, authority, path, verdict, policy, code };
      add({ source: { identity, namespace, workload }, ...asked, first, last, requests: count, counted: true }, "");
    },
    done: () => ({
      requests: [...kinds.values()].map(({ addresses, counted: _, source, ...rest }) => ({
        ...rest,
        source: { ...source, addresses: [...addresses].sort() },
      })),
      unnamed,
    }),
  };
}
