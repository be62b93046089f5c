// In directory mode: what waypoints said of requests, for root on this host, on a socket where a node's daemon would have its own.
import { createServer, type ServerResponse } from "node:http";
import { join } from "node:path";
import { errors, paths } from "#contract/tables.ts";
import { listenOn } from "#engine/socket.ts";
import type { Answer } from "#inspect/answer.ts";
import { streamAnswer, streamFlows } from "#inspect/flow-stream.ts";
import type { Flows } from "#inspect/flows.ts";
import type { AdminError } from "#inspect/status.ts";

/** People and scripts of one host; each may follow. */
const CONNECTIONS = 64;

/** Below the state directory: `trackbed flows` reads it like a daemon's run directory. */
export const runDirectory = (state: string): string => join(state, "run");

export type Known = { readonly flows: Pick<Flows, "read">; readonly answer: Answer };

export async function serveLocal(
  state: string,
  { flows, answer }: Known,
  failed: (error: unknown) => void,
): Promise<{ close(): Promise<void> }> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://control");
    if (request.method !== "GET" || (url.pathname !== "/v1/flows" && url.pathname !== "/v1/ask")) {
      refuse(response, 404, "this is control's socket, which answers GET /v1/flows and /v1/ask alone; a node's daemon has one of its own");
      return;
    }
    const answered = url.pathname === "/v1/flows" ? streamFlows(url, response, flows.read) : streamAnswer(url, response, answer);
    answered.then(
      (fault) => fault === null || refuse(response, 400, fault),
      (error: unknown) => {
        failed(error);
        response.destroy();
      },
    );
  });
  server.maxConnections = CONNECTIONS;
  await listenOn(server, join(runDirectory(state), paths.adminSocket));
  return {
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

function refuse(response: ServerResponse, status: number, message: string): void {
  const problem: AdminError = { code: "E_USAGE", message, next: errors.E_USAGE.next };
  response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(problem)}\n`);
}
