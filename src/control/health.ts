// Control's plain HTTP port: health for probes, metrics for Prometheus, and for this host alone faults and nodes for the CLI. Reads only.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { meshError } from "#mesh/error.ts";
import type { Endpoint } from "./options.ts";

export type Answer = { readonly status: number; readonly type: string; readonly body: string };

/** Path → what a GET of it answers. */
export type Routes = Readonly<Record<string, () => Answer | Promise<Answer>>>;

/** Path → what answers by itself, line by line. */
export type Streams = Readonly<Record<string, (url: URL, response: ServerResponse) => Promise<string | null>>>;

export type HealthServer = { readonly address: string; close(): Promise<void> };

const CONNECTIONS = 64;
const REQUEST_MILLISECONDS = 5_000;

export const text = (status: number, body: string): Answer => ({ status, type: "text/plain; charset=utf-8", body: `${body}\n` });

export const json = (value: unknown): Answer => ({ status: 200, type: "application/json", body: `${JSON.stringify(value)}\n` });

export async function serveHealth(
  { host, port }: Endpoint,
  routes: Routes,
  streams: Streams,
  onError: (error: unknown) => void,
): Promise<HealthServer> {
  const server = createServer({ requestTimeout: REQUEST_MILLISECONDS, headersTimeout: REQUEST_MILLISECONDS }, (request, response) => {
    const url = new URL(request.url ?? "/", "http://control");
    const stream = Object.hasOwn(streams, url.pathname) ? streams[url.pathname] : undefined;
    if (stream !== undefined && request.method === "GET" && isOwnHost(request.socket.remoteAddress ?? "")) {
      stream(url, response).then(
        (fault) => fault === null || send(response, text(400, fault)),
        (error: unknown) => {
          onError(error);
          response.destroy();
        },
      );
      return;
    }
    answer(routes, request)
      .catch((error: unknown) => {
        onError(error);
        return text(500, "internal error; see control's log");
      })
      .then((result) => send(response, result), onError);
  });
  server.maxConnections = CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(meshError("E_CONTROL_LISTEN_FAILED", `control cannot listen on ${host} port ${port} (--health)`, cause)),
    );
    server.listen({ host, port }, resolve);
  });
  const bound = server.address() as AddressInfo;
  return {
    address: bound.family === "IPv6" ? `[${bound.address}]:${bound.port}` : `${bound.address}:${bound.port}`,
    close: () => close(server),
  };
}

/** What names pods, nodes and policies is not for everybody who can reach the port; `kubectl port-forward` comes from here. */
const PRIVATE = "/v1/";

async function answer(routes: Routes, { method, url = "", socket }: IncomingMessage): Promise<Answer> {
  const path = url.split("?", 1)[0] ?? "";
  if (path.startsWith(PRIVATE) && !isOwnHost(socket.remoteAddress ?? "")) return text(403, "only from this host");
  const route = Object.hasOwn(routes, path) ? routes[path] : undefined;
  if (route === undefined) return text(404, `not found; there are ${Object.keys(routes).join(", ")}`);
  if (method !== "GET" && method !== "HEAD") return text(405, "only GET");
  return route();
}

const isOwnHost = (address: string): boolean => address === "::1" || /^(?:::ffff:)?127\./.test(address);

function send(response: ServerResponse, { status, type, body }: Answer): void {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body), "cache-control": "no-store" });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

function close(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}
