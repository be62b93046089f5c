// The director of a node: the one engine of this host, on a Unix socket that only root can reach.
import { createServer } from "node:http2";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Director as DirectorService } from "#contract/gen/engine_pb.ts";
import { bounds } from "#contract/tables.ts";
import { createDirector, type Director, type DirectorOptions } from "./director.ts";
import { listenOn } from "./socket.ts";

export type LocalDirector = { readonly director: Director; close(): Promise<void> };

/** `path` is that of director.sock. */
export async function startDirector({ path, ...options }: DirectorOptions & { readonly path: string }): Promise<LocalDirector> {
  const director = createDirector(options);
  const { attach, report, recorded } = director;
  const routes = (router: ConnectRouter): unknown => router.service(DirectorService, { attach, report, recorded });
  const server = createServer(
    connectNodeAdapter({
      routes,
      connect: false,
      grpcWeb: false,
      readMaxBytes: bounds.grpcMessageBytes,
      writeMaxBytes: bounds.grpcMessageBytes,
    }),
  );
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    // A vanished engine is told by `detached`; without a listener Node would end the process.
    session.on("error", () => session.destroy());
  });
  await listenOn(server, path);

  const close = async (): Promise<void> => {
    director.end("the director stops");
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const session of sessions) session.destroy();
    await closed;
  };
  return { director, close };
}
