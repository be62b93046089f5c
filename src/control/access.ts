// Lets a call in only when its bearer token belongs to a node, before a byte of its body is read.
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { Code, ConnectError, type ContextValues, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";

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

export function createAccess(nodeOf: (token: string) => string | null, onRefused: (address: string, reason: string) => void): Access {
  const proven = new WeakMap<object, string>();

  function guard(handler: Handler): Handler {
    return (request, response) => {
      const token = BEARER.exec(request.headers.authorization ?? "")?.[1];
      const node = token === undefined ? null : nodeOf(token);
      if (node === null) {
        onRefused(request.socket.remoteAddress ?? "", token === undefined ? "no bearer token" : "unknown token");
        refuse(response);
        return;
      }
      proven.set(request, node);
      handler(request, response);
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
function refuse(response: Http2ServerResponse): void {
  response.stream.respond(
    { ":status": 200, "content-type": "application/grpc", "grpc-status": String(Code.Unauthenticated), "grpc-message": OPAQUE },
    { endStream: true },
  );
}
