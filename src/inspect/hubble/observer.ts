// The flow service that Hubble's clients speak, over whoever can be asked for flows: they see what the same person sees by `trackbed flows`.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import {
  type Flow,
  type GetFlowsRequest,
  type GetFlowsResponseSchema,
  GetNamespacesResponseSchema,
  GetNodesResponseSchema,
  NodeState,
  type Observer,
  ServerStatusResponseSchema,
} from "#contract/gen/hubble/observer_pb.ts";
import type { ErrorCode } from "#contract/tables.ts";
import { isMeshError } from "#mesh/error.ts";
import { type AnswerLine, type Question, readQuestion } from "../question.ts";
import { filterOf } from "./filter.ts";
import { hubbleFlow } from "./flow.ts";

export type ObserverOptions = {
  readonly ask: (question: Question, stop: AbortSignal) => AsyncGenerator<AnswerLine>;
  /** Only flows with one end in these; null: of all. */
  readonly namespaces: readonly string[] | null;
  readonly version: string;
};

/** LostEventSource: it could not be read before it was overwritten. */
const RING_OVERWRITTEN = 3;
/** Namespaces that are told of are those of this time. */
const RECENT_MS = 3_600_000;

type Response = MessageInitShape<typeof GetFlowsResponseSchema>;
type Matches = (flow: Flow) => boolean;

export function observerService({ ask, namespaces, version }: ObserverOptions): ServiceImpl<typeof Observer> {
  const started = Date.now();

  async function* getFlows(request: GetFlowsRequest, { signal }: { readonly signal: AbortSignal }): AsyncGenerator<Response> {
    const matches = filterOf(request.whitelist, request.blacklist);
    const [since, until] = [request.since, request.until].map((time) => (time === undefined ? null : timestampMs(time)));
    const common = { about: "flows", namespaces, since: since ?? null, until: until ?? null };
    let last = since ?? Date.now();
    if (!request.follow || request.number > 0n || request.since !== undefined) {
      const few = pick(responses(ask(readQuestion(common), signal), matches), Number(request.number), request.first);
      for await (const response of few) {
        if (response.time?.seconds !== undefined) last = Math.max(last, momentOf(response) + 1);
        yield response;
      }
    }
    if (request.follow) yield* responses(ask(readQuestion({ ...common, since: last, follow: true }), signal), matches);
  }

  /** Who takes part now, and who does not. */
  async function present(signal: AbortSignal): Promise<{ readonly nodes: string[]; readonly missing: string[] }> {
    const [nodes, missing] = [new Set<string>(), new Set<string>()];
    for await (const line of ask(readQuestion({ about: "flows", namespaces, limit: 1 }), signal)) {
      if (line.type === "answered") for (const node of line.nodes) nodes.add(node);
      else if (line.type === "missing") missing.add(line.node);
      else if (line.type === "flow" && line.node !== undefined) nodes.add(line.node);
    }
    return { nodes: [...nodes].sort(), missing: [...missing].sort() };
  }

  return {
    getFlows: (request, context) => told(getFlows(request, context)),
    getNodes: (_, { signal }) =>
      explained(async () => {
        const { nodes, missing } = await present(signal);
        const of = (names: string[], state: NodeState) => names.map((name) => ({ name, version, state }));
        return create(GetNodesResponseSchema, {
          nodes: [...of(nodes, NodeState.NODE_CONNECTED), ...of(missing, NodeState.NODE_UNAVAILABLE)],
        });
      }),
    getNamespaces: (_, { signal }) =>
      explained(async () => {
        const by = ["source.namespace", "destination.namespace"];
        const found = new Set<string>();
        const question = readQuestion({ about: "edges", by, namespaces, since: Date.now() - RECENT_MS });
        for await (const line of ask(question, signal))
          if (line.type === "group") for (const name of Object.values(line.group)) if (typeof name === "string") found.add(name);
        return create(GetNamespacesResponseSchema, { namespaces: [...found].sort().map((namespace) => ({ namespace })) });
      }),
    serverStatus: (_, { signal }) =>
      explained(async () => {
        const { nodes, missing } = await present(signal);
        return create(ServerStatusResponseSchema, {
          uptimeNs: BigInt(Date.now() - started) * 1_000_000n,
          numConnectedNodes: nodes.length,
          numUnavailableNodes: missing.length,
          unavailableNodes: missing,
          version,
        });
      }),
  };
}

async function* responses(lines: AsyncGenerator<AnswerLine>, matches: Matches): AsyncGenerator<Response> {
  for await (const line of lines) {
    if (line.type === "flow") {
      const flow = hubbleFlow(line.flow, line.node ?? "");
      if (matches(flow))
        yield {
          responseTypes: { case: "flow", value: flow },
          nodeName: flow.nodeName,
          ...(flow.time === undefined ? {} : { time: flow.time }),
        };
    } else if (line.type === "dropped")
      yield { responseTypes: { case: "lostEvents", value: { source: RING_OVERWRITTEN, numEventsLost: BigInt(line.count) } } };
    else if (line.type === "missing") {
      const value = { stateChange: NodeState.NODE_UNAVAILABLE, nodeNames: [line.node], message: line.reason };
      yield { responseTypes: { case: "nodeStatus", value }, nodeName: line.node };
    }
  }
}

const momentOf = ({ time }: Response): number => Number(time?.seconds ?? 0n) * 1000 + Math.floor((time?.nanos ?? 0) / 1e6);

/** Of flows the first or the last so many, 0 for all; what is no flow is told in any case. */
async function* pick(all: AsyncGenerator<Response>, number: number, first: boolean): AsyncGenerator<Response> {
  const kept: Response[] = [];
  for await (const response of all) {
    if (response.responseTypes?.case !== "flow") yield response;
    else if (number === 0) yield response;
    else if (!first || kept.length < number) {
      kept.push(response);
      if (kept.length > number) kept.shift();
    }
  }
  yield* kept;
}

async function* told<T>(all: AsyncGenerator<T>): AsyncGenerator<T> {
  try {
    yield* all;
  } catch (error) {
    throw failure(error);
  }
}

const explained = <T>(work: () => Promise<T>): Promise<T> =>
  work().catch((error: unknown) => {
    throw failure(error);
  });

const CODES: Partial<Record<ErrorCode, Code>> = {
  E_INSPECTION_REFUSED: Code.PermissionDenied,
  E_QUESTION: Code.InvalidArgument,
  E_QUESTION_BUSY: Code.ResourceExhausted,
  E_API_UNREACHABLE: Code.Unavailable,
};

const failure = (error: unknown): unknown =>
  isMeshError(error) ? new ConnectError(`${error.message} (${error.code})`, CODES[error.code] ?? Code.Unknown) : error;
