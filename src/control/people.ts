// What people may ask of the whole mesh, on control's own port: who asks is proven first, then nodes, waypoints and the other replicas are asked.
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { type ErrorCode, errors, kubernetes } from "#contract/tables.ts";
import type { Answer } from "#inspect/answer.ts";
import { type Frame, frameOf } from "#inspect/frames.ts";
import { createTally } from "#inspect/ledger/tally.ts";
import { LINES, writeLines } from "#inspect/lines.ts";
import { merge } from "#inspect/merge.ts";
import { type AboutRecording, type AnswerLine, type FramesQuestion, type Question, readQuestion } from "#inspect/question.ts";
import type { AdminError } from "#inspect/status.ts";
import { explainError, isMeshError, meshError } from "#mesh/error.ts";
import type { InspectionServer, Item, Missing } from "./inspection.ts";
import type { Peers } from "./peers.ts";

/** As TokenReview tells it and SubjectAccessReview asks for it. */
export type Viewer = {
  readonly username: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
};

/** Both reject when it cannot be found out now. */
export type Viewers = {
  viewerOf(token: string, address: string): Promise<Viewer | null>;
  /** Null: of every namespace. */
  mayRead(viewer: Viewer, namespace: string | null): Promise<boolean>;
  /** Whether he may record what pods of the namespace send and hear. */
  mayRecord(viewer: Viewer, namespace: string): Promise<boolean>;
};

export type PeopleOptions = {
  readonly viewers: Viewers;
  readonly inspection: Pick<InspectionServer, "ask" | "nodes">;
  /** What waypoints told this replica. */
  readonly waypoints: Answer;
  readonly peers: Peers;
  /** Every node that there is. */
  readonly nodes: () => readonly string[];
  /** Before a recording begins; what it throws refuses it. */
  readonly announce: (recording: AboutRecording) => Promise<void>;
  readonly onAsked: (viewer: string, question: Question) => void;
  readonly onRefused: (address: string, reason: string) => void;
};

export const ASK_PATH = "/v1/ask";
/** Set by a replica that asks another one: only what is attached there is wanted. */
export const HERE = "here";

/** Of each a right is asked for. */
const NAMESPACES = 32;

type Refusal = { readonly status: number; readonly code: ErrorCode; readonly message: string };

/** Answers GET /v1/ask?question=…; the caller sends nothing else here. */
export function servePeople(options: PeopleOptions): (request: Http2ServerRequest, response: Http2ServerResponse) => void {
  const { viewers, onRefused } = options;

  async function serve(request: Http2ServerRequest, response: Http2ServerResponse): Promise<void> {
    const address = request.socket.remoteAddress ?? "";
    const url = new URL(request.url, "http://control");
    const header = request.headers[kubernetes.viewerTokenHeader];
    const token = typeof header === "string" ? header : "";
    const admitted = await admit(request.method, url, token, address);
    if ("status" in admitted) {
      if (admitted.code === "E_INSPECTION_REFUSED") onRefused(address, admitted.message);
      refuse(response, admitted);
      return;
    }
    const { viewer } = admitted;
    // Whoever asks cannot say that he is somebody else.
    const question = admitted.question.about === "recording" ? { ...admitted.question, by: viewer.username } : admitted.question;
    const stop = new AbortController();
    response.on("close", () => stop.abort());
    if (!url.searchParams.has(HERE)) options.onAsked(viewer.username, question);
    let lines: AsyncIterable<string | Frame>;
    try {
      if (question.about === "recording" && !url.searchParams.has(HERE)) await options.announce(question);
      lines = gather(options, question, url.searchParams.has(HERE) ? null : token, stop.signal);
    } catch (error) {
      if (!isMeshError(error)) throw error;
      refuse(response, { status: 503, code: error.code, message: error.message });
      return;
    }
    response.writeHead(200, LINES);
    response.write("\n"); // sends the head: whoever follows may wait long for the first line
    await writeLines(response, lines);
  }

  async function admit(
    method: string,
    url: URL,
    token: string,
    address: string,
  ): Promise<Refusal | { readonly question: Question; readonly viewer: Viewer }> {
    const refused = (status: number, message: string): Refusal => ({ status, code: "E_INSPECTION_REFUSED", message });
    // Strangers are told nothing else: neither what could be asked nor what was wrong with the question.
    let viewer: Viewer | null;
    try {
      viewer = token === "" ? null : await viewers.viewerOf(token, address);
    } catch (error) {
      return { status: 503, code: "E_API_UNREACHABLE", message: `callers cannot be authenticated now: ${explainError(error)}` };
    }
    if (viewer === null) return refused(401, "not authenticated");
    if (method !== "GET") return { status: 405, code: "E_USAGE", message: "GET is needed" };
    let question: Question;
    try {
      question = readQuestion(JSON.parse(url.searchParams.get("question") ?? ""));
    } catch (error) {
      return { status: 400, code: "E_QUESTION", message: error instanceof Error ? error.message : String(error) };
    }
    const records = question.about === "recording";
    const namespaces = "pods" in question ? namespacesOf(question) : (question.namespaces ?? [null]);
    const mayAsk = (namespace: string | null): Promise<boolean> =>
      records ? viewers.mayRecord(viewer, namespace ?? "") : viewers.mayRead(viewer, namespace);
    if (namespaces.length > NAMESPACES) return { status: 400, code: "E_QUESTION", message: `more than ${NAMESPACES} namespaces` };
    for (const namespace of namespaces) {
      try {
        if (await mayAsk(namespace)) continue;
      } catch (error) {
        return { status: 503, code: "E_API_UNREACHABLE", message: `rights cannot be looked at now: ${explainError(error)}` };
      }
      const where = namespace === null ? "every namespace; ask for one of yours with -n" : `namespace ${namespace}`;
      const right = records ? `create recordings.${kubernetesGroup} in` : `get flows.${kubernetesGroup} of`;
      return refused(403, `${viewer.username} may not ${right} ${where}`);
    }
    return { question, viewer };
  }

  return (request, response) => {
    serve(request, response).catch((error: unknown) => {
      onRefused(request.socket.remoteAddress ?? "", `a question could not be answered: ${explainError(error)}`);
      response.stream.destroy();
    });
  };
}

const kubernetesGroup = "trackbed.dev";

const namespacesOf = ({ pods }: AboutRecording | FramesQuestion): string[] => [...new Set(pods.map(({ namespace }) => namespace))];

/** `token` null: only what is attached here. Throws before the first line when nothing can be asked. */
function gather(options: PeopleOptions, question: Question, token: string | null, stop: AbortSignal): AsyncGenerator<string | Frame> {
  const { inspection, waypoints, peers } = options;
  const missing: Missing[] = [];
  const nodes = new Set(inspection.nodes());
  const others = token === null ? [] : peers.ask(question, token, { missing, nodes }, stop);
  const sources = [...inspection.ask(question, missing, stop), texts(waypoints(question, stop)), ...others];
  const ordered = question.about === "edges" || (question.about === "flows" && !question.follow);
  return tell(merge(sources, ordered));

  async function* tell(items: AsyncGenerator<Item>): AsyncGenerator<string | Frame> {
    if (question.about === "flows") {
      let told = 0;
      for await (const { json } of items) {
        if (told++ < question.limit) yield json;
        else break;
      }
      if (told > question.limit) yield JSON.stringify({ type: "cut", limit: question.limit } satisfies AnswerLine);
    } else if (question.about === "recording") yield* items;
    else if (question.about === "frames") for await (const { json } of items) yield json;
    else {
      const tally = createTally(question);
      for await (const { json } of items) tally.merge(JSON.parse(json) as AnswerLine);
      for (const line of tally.lines()) yield JSON.stringify(line);
    }
    if (token !== null)
      for (const node of options.nodes())
        if (!nodes.has(node) && !missing.some((one) => one.node === node))
          missing.push({ node, reason: "its daemon is attached to no replica of control" });
    for (const one of missing) yield JSON.stringify({ type: "missing", ...one } satisfies AnswerLine);
    const answered = [...nodes].filter((node) => !missing.some((one) => one.node === node)).sort();
    yield JSON.stringify({ type: "answered", nodes: answered } satisfies AnswerLine);
  }
}

async function* texts(lines: ReturnType<Answer>): AsyncGenerator<Item> {
  for await (const { time, line } of lines) yield { time, ...frameOf(line) };
}

function refuse(response: Http2ServerResponse, { status, code, message }: Refusal): void {
  if (response.stream.destroyed) return;
  const problem: AdminError = { code, message, next: errors[code].next };
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(problem)}\n`);
}

/** Where there is no API server there are no people but root, who asks on the sockets. */
export const nobody: Viewers = {
  viewerOf: async () => null,
  mayRead: async () => {
    throw meshError("E_INSPECTION_REFUSED", "nobody may read here");
  },
  mayRecord: async () => {
    throw meshError("E_INSPECTION_REFUSED", "nobody may record here");
  },
};
