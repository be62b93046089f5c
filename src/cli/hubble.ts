// `trackbed hubble`: a server on this machine that Hubble's clients can ask; it asks for flows as `trackbed flows` does, with the same rights.
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Http2Server } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Observer } from "#contract/gen/hubble/observer_pb.ts";
import { observerService } from "#inspect/hubble/observer.ts";
import { type Exit, exit, usage } from "./outcome.ts";
import { askerOf } from "./question.ts";
import { version } from "./version.ts";
import type { Where } from "./where.ts";

export type HubbleOptions = Where & { readonly namespace?: string; readonly account?: string; readonly listen?: string };

/** Whoever reaches the server sees what its owner may see: by default nobody else can, and never anybody from another machine. */
const LOOPBACK = /^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost):(\d{1,5})$/;

export async function runHubble({ namespace, account, listen, ...where }: HubbleOptions): Promise<Exit> {
  const [, host, port] = LOOPBACK.exec(listen ?? "") ?? [];
  const path = listen?.startsWith("unix:/") ? listen.slice("unix:".length).replace(/^\/+/, "/") : null;
  if (listen !== undefined && path === null && (host === undefined || Number(port) > 65_535))
    throw usage(`--listen ${listen}: expected unix:/PATH or 127.0.0.1:PORT; this is for programs of this machine alone`);
  const asker = await askerOf(where, account ?? null);
  const service = observerService({ ask: asker.ask, namespaces: namespace === undefined ? null : [namespace], version: version() });
  const server = createServer(connectNodeAdapter({ routes: (router) => router.service(Observer, service) }));
  const directory = listen === undefined ? await mkdtemp(join(tmpdir(), "trackbed-hubble-")) : null; // readable for its owner alone
  const place = path ?? (directory === null ? null : join(directory, "hubble.sock"));
  try {
    const sessions = await listenOn(server, place ?? { host: (host ?? "").replace(/[[\]]/g, ""), port: Number(port) });
    const bound = server.address();
    const address = place === null && bound !== null && typeof bound === "object" ? `${host}:${bound.port}` : `unix://${place}`;
    console.log(`hubble observe --server ${address}`);
    await new Promise<void>((resolve) => {
      process.once("SIGINT", resolve).once("SIGTERM", resolve);
    });
    server.close();
    for (const session of sessions) session.destroy();
    return exit.ok;
  } finally {
    await asker.close();
    if (directory !== null) await rm(directory, { recursive: true, force: true });
  }
}

/** Its sessions, so that readers who follow can be ended. */
function listenOn(
  server: Http2Server,
  where: string | { readonly host: string; readonly port: number },
): Promise<Set<{ destroy(): void }>> {
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  return new Promise((resolve, reject) => {
    server.once("error", (cause: Error) => reject(usage(`--listen: ${cause.message}`)));
    const listening = (): void => resolve(sessions);
    if (typeof where === "string") {
      const mask = process.umask(0o077); // the socket is its owner's from its first moment
      server.listen(where, listening);
      process.umask(mask);
    } else server.listen(where, listening);
  });
}
