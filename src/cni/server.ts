// The daemon's end of cni.sock: HTTP with JSON, one request a connection, bounded in number and size.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { z } from "zod";
import { explainError, isMeshError } from "#mesh/error.ts";
import { type CniOutcome, CniRequest, type CniVerb, isRefusal } from "./request.ts";

export type CniHandlers = {
  /** `working` tells the plugin that the pod is the mesh's and that it should wait. */
  add(request: CniRequest, working: () => void): Promise<CniOutcome>;
  check(request: CniRequest): Promise<CniOutcome>;
  del(request: CniRequest): Promise<CniOutcome>;
};

export type CniEvents = {
  answered(verb: CniVerb, request: CniRequest, outcome: CniOutcome): void;
  failed(error: unknown): void;
};

/** A pod with many addresses has a body of some kilobytes. */
const BODY_BYTES = 64 * 1024;
/** A node starts with all its pods at once; the kubelet tries again what finds no place. */
const CONNECTIONS = 512;

export function cniServer(handlers: CniHandlers, events: CniEvents): Server {
  const server = createServer((request, response) => {
    answer(request, response, handlers, events).catch((error: unknown) => {
      events.failed(error);
      response.destroy();
    });
  });
  server.maxConnections = CONNECTIONS;
  return server;
}

async function answer(request: IncomingMessage, response: ServerResponse, handlers: CniHandlers, events: CniEvents): Promise<void> {
  const verb = /^\/cni\/(add|check|del)$/.exec(request.url ?? "")?.[1] as CniVerb | undefined;
  if (verb === undefined || request.method !== "POST") {
    return send(response, 404, { code: "E_CNI_REQUEST_INVALID", reason: "POST /cni/add, /cni/check and /cni/del are here" });
  }
  const parsed = CniRequest.safeParse(await readJson(request));
  if (!parsed.success) return send(response, 400, { code: "E_CNI_REQUEST_INVALID", reason: z.prettifyError(parsed.error) });
  const outcome = await settle(verb, parsed.data, handlers, () => response.writeProcessing());
  events.answered(verb, parsed.data, outcome);
  send(response, isRefusal(outcome) ? 503 : 200, outcome);
}

async function settle(verb: CniVerb, request: CniRequest, handlers: CniHandlers, working: () => void): Promise<CniOutcome> {
  try {
    return await (verb === "add" ? handlers.add(request, working) : handlers[verb](request));
  } catch (error) {
    return { code: isMeshError(error) ? error.code : "E_CNI_NOT_CAPTURED", reason: explainError(error) };
  }
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES) return undefined;
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    return undefined; // the schema says what was expected
  }
}

function send(response: ServerResponse, status: number, body: CniOutcome): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text), connection: "close" });
  response.end(text);
}
