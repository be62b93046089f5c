// The sending end of delta discovery: every connected stream follows one store.
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import type { AggregatedDiscoveryService, DeltaDiscoveryRequest, DeltaDiscoveryResponse } from "#contract/gen/envoy/discovery_pb.ts";
import { isMeshError } from "#mesh/error.ts";
import { createBell } from "./bell.ts";
import type { TypeUrl } from "./resource.ts";
import type { ResourceStore } from "./store.ts";
import { createDiscoveryStream, type TypeCounters } from "./stream.ts";
import { createTurns, type Turn, type Turns } from "./turns.ts";

export type StreamInfo = { readonly node: string; readonly since: Date; types(): ReadonlyMap<TypeUrl, Readonly<TypeCounters>> };

export type XdsServerOptions = {
  /** Name of the calling node, proven by its token; throws ConnectError when it is not. */
  readonly authenticate: (context: HandlerContext) => string;
  readonly onResponse?: (node: string, typeUrl: string) => void;
  readonly onNack?: (node: string, typeUrl: string, reason: string) => void;
  /** A stream ended because its node broke the protocol. */
  readonly onFault?: (node: string, error: unknown) => void;
  /** In which new streams are served; a test's own. */
  readonly turns?: Turns;
};

export type XdsServer = {
  readonly service: ServiceImpl<typeof AggregatedDiscoveryService>;
  streams(): readonly StreamInfo[];
  /** Ends the streams of a node that is not trusted any more. */
  disconnect(node: string): void;
  /** Ends every stream; nodes reconnect with what they hold. */
  close(): void;
};

/** A daemon needs one, two while it restarts; what one node's token can cost stays small. The oldest ends. */
const STREAMS_PER_NODE = 4;

type Live = { readonly info: StreamInfo; end(): void };

export function createXdsServer(store: ResourceStore, options: XdsServerOptions): XdsServer {
  const live = new Set<Live>();
  const { turns = createTurns() } = options;

  async function* follow(requests: AsyncIterable<DeltaDiscoveryRequest>, context: HandlerContext): AsyncGenerator<DeltaDiscoveryResponse> {
    const node = options.authenticate(context);
    const stream = createDiscoveryStream(store);
    const bell = createBell();
    let fault: unknown = null;
    let ended = false;
    let turn = null as Turn | null;
    const end = (error: unknown = null): void => {
      fault ??= error;
      ended = true;
      bell.ring();
    };
    const info: StreamInfo = { node, since: new Date(), types: stream.counters };
    const entry: Live = { info, end };
    admit(entry);
    const unwatch = store.watch((change) => {
      stream.notice(change);
      bell.ring();
    });
    const onAbort = (): void => end();
    context.signal.addEventListener("abort", onAbort);
    void read(requests, async (request) => {
      if (stream.opens(request)) {
        turn ??= await turns.take();
        if (ended) return turn.end();
      }
      const reasons = stream.request(request);
      if (reasons !== null) options.onNack?.(node, request.typeUrl, reasons);
      turn?.progress();
      if (stream.caughtUp()) {
        turn?.end();
        turn = null;
      }
      bell.ring();
    }).then(() => end(), end);
    try {
      while (!ended) {
        const response = stream.next();
        if (response === null) await bell.wait();
        else {
          options.onResponse?.(node, response.typeUrl);
          yield response; // resumes when the transport took it: a slow reader waits here, and its news coalesce in the store
        }
      }
      if (fault !== null) throw reported(node, fault, options);
    } finally {
      context.signal.removeEventListener("abort", onAbort);
      unwatch();
      live.delete(entry);
      ended = true;
      turn?.end();
    }
  }

  function admit(entry: Live): void {
    const older = [...live].filter(({ info }) => info.node === entry.info.node);
    for (const { end } of older.slice(0, Math.max(0, older.length + 1 - STREAMS_PER_NODE))) end();
    live.add(entry);
  }

  return {
    service: { deltaAggregatedResources: follow },
    streams: () => [...live].map(({ info }) => info),
    disconnect: (node) => {
      for (const { info, end } of live) if (info.node === node) end();
    },
    close: () => {
      for (const { end } of live) end();
    },
  };
}

async function read(
  requests: AsyncIterable<DeltaDiscoveryRequest>,
  take: (request: DeltaDiscoveryRequest) => Promise<void>,
): Promise<void> {
  for await (const request of requests) await take(request);
}

/** A broken connection ends a stream every day; only a node that breaks the protocol is worth a line. */
function reported(node: string, fault: unknown, options: XdsServerOptions): ConnectError {
  if (!isMeshError(fault)) return ConnectError.from(fault, Code.Unavailable);
  options.onFault?.(node, fault);
  return new ConnectError(fault.message, Code.InvalidArgument);
}
