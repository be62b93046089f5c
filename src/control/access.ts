// Lets a call in only when its bearer token belongs to a node, before a byte of its body is read.
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { Code, ConnectError, type ContextValues, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { explainError } from "#mesh/error.ts";

type Handler = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

export type Access = {
  /** Wraps a gRPC handler. */
  guard(handler: Handler): Handler;
  /** For the handler's adapter: carries the proven node into the call. */
  contextValues(request: object): ContextValues;
};

const NODE = createContextKey<string>("", { description: "node proven by its token" });
/** What every refused caller hears, whatever was wrong. */
const OPAQUE = "not authenticated";
const BEARER = /^Bearer ([\x21-\x7e]+)$/;

/** `nodeOf` rejects when it cannot be found out now whose token it is: the caller hears that it should try again. */
export function createAccess(
  nodeOf: (token: string, address: string) => Promise<string | null>,
  onRefused: (address: string, reason: string) => void,
): Access {
  const proven = new WeakMap<object, string>();

  async function admit(handler: Handler, request: Http2ServerRequest, response: Http2ServerResponse): Promise<void> {
    const address = request.socket.remoteAddress ?? "";
    const token = BEARER.exec(request.headers.authorization ?? "")?.[1];
    let node: string | null;
    try {
      node = token === undefined ? null : await nodeOf(token, address);
    } catch (error) {
      onRefused(address, explainError(error));
      refuse(response, Code.Unavailable, "callers cannot be authenticated now");
      return;
    }
    if (response.stream.destroyed) return; // the caller went away while it was looked up
    if (node === null) {
      onRefused(address, token === undefined ? "no bearer token" : "unknown token");
      refuse(response, Code.Unauthenticated, OPAQUE);
      return;
    }
    proven.set(request, node);
    handler(request, response);
  }

  function guard(handler: Handler): Handler {
    return (request, response) => {
      admit(handler, request, response).catch((error: unknown) => response.stream.destroy(error instanceof Error ? error : undefined));
    };
  }

  return { guard, contextValues: (request) => createContextValues().set(NODE, proven.get(request) ?? "") };
}

/** The proven node of a call. */
export function callerNode(context: HandlerContext): string {
  const node = context.values.get(NODE);
  if (node === "") throw new ConnectError(OPAQUE, Code.Unauthenticated);
  return node;
}

/** A gRPC answer of trailers only; the rest of the request is not wanted. */
function refuse(response: Http2ServerResponse, code: Code, message: string): void {
  if (response.stream.destroyed) return;
  response.stream.respond(
    { ":status": 200, "content-type": "application/grpc", "grpc-status": String(code), "grpc-message": message },
    { endStream: true },
  );
}
