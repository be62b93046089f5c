// The admin API on admin.sock, for root on this node: what the daemon knows, as JSON, and the log level.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { type ErrorCode, errors } from "#contract/tables.ts";
import type { Answer } from "#inspect/answer.ts";
import type { StateLine } from "#inspect/eval/state.ts";
import type { FlowLine } from "#inspect/flow.ts";
import { streamAnswer, streamFlows } from "#inspect/flow-stream.ts";
import { type RecordingLine, type RecordingQuestion, readRequest } from "#inspect/pcap/recording.ts";
import { createRecordingStreams, RECORDINGS, type RecordingStreams } from "#inspect/pcap/stream.ts";
import type { AdminError, LogLevelRequest, NodeStatus, PodExplanation } from "#inspect/status.ts";

import { isMeshError } from "#mesh/error.ts";

export type AdminSources = {
  status(): NodeStatus;
  pod(namespace: string, name: string): PodExplanation | null;
  flows(since: number, follow: boolean, stop: AbortSignal): AsyncGenerator<FlowLine>;
  /** What the node decides from: its settings, then its resources. */
  state(): Iterable<StateLine>;
  record(question: RecordingQuestion, stop: AbortSignal): AsyncGenerator<RecordingLine>;
  readonly answer: Answer;
  /** Returns what is wrong with it, null when it is in force. */
  setLogLevel(request: LogLevelRequest): { readonly code: ErrorCode; readonly message: string } | null;
};

/** A log filter is a short line. */
const BODY_BYTES = 16 * 1024;
/** People and scripts of one node; each may follow flows. */
const CONNECTIONS = 64;

const LogLevel = z.strictObject({
  daemon: z.enum(["fatal", "error", "warn", "info", "debug", "trace"]).optional(),
  engine: z.string().min(1).max(1024).optional(),
});

export function adminServer(sources: AdminSources, failed: (error: unknown) => void): Server {
  const recordings = createRecordingStreams();
  const server = createServer((request, response) => {
    answer(request, response, sources, recordings).catch((error: unknown) => {
      failed(error);
      response.destroy();
    });
  });
  server.maxConnections = CONNECTIONS;
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  sources: AdminSources,
  recordings: RecordingStreams,
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://admin");
  const pod = /^\/v1\/pods\/([^/]+)\/([^/]+)$/.exec(url.pathname);
  if (url.pathname === "/v1/log-level")
    return request.method === "POST" ? setLogLevel(request, response, sources) : refuse(response, 405, "POST is needed");
  if (url.pathname === RECORDINGS)
    return request.method === "POST" ? record(request, response, sources, recordings) : refuse(response, 405, "POST is needed");
  if (request.method === "DELETE" && url.pathname.startsWith(RECORDINGS))
    return recordings.stop(url.pathname) ? send(response, 200, {}) : refuse(response, 404, `there is no recording ${url.pathname}`);
  if (request.method !== "GET") return refuse(response, 405, "GET is needed");
  if (url.pathname === "/v1/status") return send(response, 200, sources.status());
  if (pod !== null) {
    const [namespace, name] = [decodeURIComponent(pod[1] ?? ""), decodeURIComponent(pod[2] ?? "")];
    const explanation = sources.pod(namespace, name);
    return explanation === null ? refuse(response, 404, `this node has no pod ${namespace}/${name}`) : send(response, 200, explanation);
  }
  if (url.pathname === "/v1/state") return sendLines(response, sources.state());
  if (url.pathname === "/v1/flows") {
    const fault = await streamFlows(url, response, ({ since, follow, stop }) => sources.flows(since, follow, stop));
    return fault === null ? undefined : refuse(response, 400, fault);
  }
  if (url.pathname === "/v1/ask") {
    const fault = await streamAnswer(url, response, sources.answer);
    return fault === null ? undefined : refuse(response, 400, fault);
  }
  return refuse(
    response,
    404,
    `${url.pathname} is not one of /v1/status, /v1/pods/NAMESPACE/NAME, /v1/state, /v1/flows, /v1/ask, /v1/recordings, /v1/log-level`,
  );
}

async function setLogLevel(request: IncomingMessage, response: ServerResponse, sources: AdminSources): Promise<void> {
  const body = await readBody(request);
  if (body === null) return refuse(response, 413, `the body has more than ${BODY_BYTES} bytes`);
  const parsed = LogLevel.safeParse(parseJson(body));
  if (!parsed.success) return refuse(response, 400, z.prettifyError(parsed.error));
  const { daemon, engine } = parsed.data;
  const fault = sources.setLogLevel({ ...(daemon === undefined ? {} : { daemon }), ...(engine === undefined ? {} : { engine }) });
  return fault === null ? send(response, 200, {}) : send(response, 503, problem(fault.code, fault.message));
}

async function record(
  request: IncomingMessage,
  response: ServerResponse,
  sources: AdminSources,
  recordings: RecordingStreams,
): Promise<void> {
  const body = await readBody(request);
  if (body === null) return refuse(response, 413, `the body has more than ${BODY_BYTES} bytes`);
  try {
    const question = readRequest(parseJson(body));
    await recordings.send(response, (stop) => sources.record(question, stop));
  } catch (error) {
    if (!isMeshError(error) || response.headersSent) throw error;
    send(response, error.code === "E_USAGE" ? 400 : 503, problem(error.code, error.message));
  }
}

async function readBody(request: IncomingMessage): Promise<string | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the schema says what was expected
  }
}

/** As fast as they are read: a whole mesh is more than a buffer should hold. */
async function sendLines(response: ServerResponse, lines: Iterable<unknown>): Promise<void> {
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  const text = Readable.from(lines).map((line) => `${JSON.stringify(line)}\n`);
  await pipeline(text, response).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ERR_STREAM_PREMATURE_CLOSE") throw error; // the reader has heard enough
  });
}

const problem = (code: ErrorCode, message: string): AdminError => ({ code, message, next: errors[code].next });

const refuse = (response: ServerResponse, status: number, message: string): void => send(response, status, problem("E_USAGE", message));

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}
