// Lets a call in only when its bearer token belongs to a node, or for the service of directors to a waypoint, before a byte of its body is read.
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { Code, ConnectError, type ContextValues, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { Director } from "#contract/gen/engine_pb.ts";
import { explainError } from "#mesh/error.ts";

type Handler = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

export type Access = {
  /** Wraps a gRPC handler. */
  guard(handler: Handler): Handler;
  /** For the handler's adapter: carries the proven caller into the call. */
  contextValues(request: object): ContextValues;
};

/** Reject when it cannot be found out now whose token it is: the caller hears that it should try again. */
export type Proofs = {
  nodeOf(token: string, address: string): Promise<string | null>;
  /** The uid of the waypoint's pod. */
  waypointOf(token: string, address: string): Promise<string | null>;
};

const NODE = createContextKey<string>("", { description: "node proven by its token" });
const WAYPOINT = createContextKey<string>("", { description: "uid of the waypoint's pod proven by its token" });
/** The one service of waypoints; every other is of nodes. */
const OF_WAYPOINTS = `/${Director.typeName}/`;
/** What every refused caller hears, whatever was wrong. */
const OPAQUE = "not authenticated";
const BEARER = /^Bearer ([\x21-\x7e]+)$/;

export function createAccess(proofs: Proofs, onRefused: (address: string, reason: string) => void): Access {
  const proven = new WeakMap<object, { readonly key: typeof NODE; readonly caller: string }>();

  async function admit(handler: Handler, request: Http2ServerRequest, response: Http2ServerResponse): Promise<void> {
    const address = request.socket.remoteAddress ?? "";
    const token = BEARER.exec(request.headers.authorization ?? "")?.[1];
    const key = request.url.startsWith(OF_WAYPOINTS) ? WAYPOINT : NODE;
    const proof = key === WAYPOINT ? proofs.waypointOf : proofs.nodeOf;
    let caller: string | null;
    try {
      caller = token === undefined ? null : await proof(token, address);
    } catch (error) {
      onRefused(address, explainError(error));
      refuse(response, Code.Unavailable, "callers cannot be authenticated now");
      return;
    }
    if (response.stream.destroyed) return; // the caller went away while it was looked up
    if (caller === null) {
      onRefused(address, token === undefined ? "no bearer token" : "unknown token");
      refuse(response, Code.Unauthenticated, OPAQUE);
      return;
    }
    proven.set(request, { key, caller });
    handler(request, response);
  }

  function guard(handler: Handler): Handler {
    return (request, response) => {
      admit(handler, request, response).catch((error: unknown) => response.stream.destroy(error instanceof Error ? error : undefined));
    };
  }

  function contextValues(request: object): ContextValues {
    const proof = proven.get(request);
    return proof === undefined ? createContextValues() : createContextValues().set(proof.key, proof.caller);
  }

  return { guard, contextValues };
}

/** The proven node of a call. */
export const callerNode = (context: HandlerContext): string => caller(context, NODE);

/** The uid of the pod of the waypoint that calls. */
export const callerWaypoint = (context: HandlerContext): string => caller(context, WAYPOINT);

function caller({ values }: HandlerContext, key: typeof NODE): string {
  const found = values.get(key);
  if (found === "") throw new ConnectError(OPAQUE, Code.Unauthenticated);
  return found;
}

/** A gRPC answer of trailers only; the rest of the request is not wanted. */
function refuse(response: Http2ServerResponse, code: Code, message: string): void {
  if (response.stream.destroyed) return;
  response.stream.respond(
    { ":status": 200, "content-type": "application/grpc", "grpc-status": String(code), "grpc-message": message },
    { endStream: true },
  );
}
