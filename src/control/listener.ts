// Control's TLS port: gRPC over HTTP/2 on every listen address, within bounds that one peer cannot use up for the others.
import type { Http2SecureServer, Http2ServerRequest, Http2ServerResponse, ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import { constants, createSecureServer } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { meshError } from "#mesh/error.ts";
import type { Endpoint } from "./options.ts";

export type Credentials = { readonly key: string; readonly chain: string };

export type ListenerOptions = {
  readonly endpoints: readonly Endpoint[];
  readonly credentials: Credentials;
  readonly handler: (request: Http2ServerRequest, response: Http2ServerResponse) => void;
  /** A connection that was cut or turned away, and why. */
  readonly onCut: (address: string, reason: string) => void;
  /** A connection that asks for nothing within this time is not a daemon; default 5 s. */
  readonly firstCallMilliseconds?: number;
};

export type Listener = {
  readonly addresses: readonly string[];
  /** For new connections; live ones keep what they verified. */
  replaceCredentials(credentials: Credentials): void;
  sessions(): number;
  /** No new connections and no new calls; resolves when the last connection ended or the time is over, with how many it cut. */
  drain(milliseconds: number): Promise<number>;
};

/** A thousand nodes, each with an old connection that ends while the new one stands. */
const CONNECTIONS = 2_048;
/** One node has one daemon; several nodes may share an address behind NAT. */
const CONNECTIONS_PER_ADDRESS = 64;
const HANDSHAKE_MILLISECONDS = 5_000;
const FIRST_CALL_MILLISECONDS = 5_000;
/** A daemon has three calls open: discovery, reports, and a certificate now and then. */
const CALLS_PER_CONNECTION = 128;
const PING_INTERVAL_MILLISECONDS = 10_000;
const PING_TIMEOUT_MILLISECONDS = 20_000;
/** So often a drain looks for calls that are over. */
const OVER_MILLISECONDS = 20;

export async function listen(options: ListenerOptions): Promise<Listener> {
  const sessions = new Set<ServerHttp2Session>();
  const calls = new Set<ServerHttp2Stream>();
  const perAddress = new Map<string, number>();
  const servers: Http2SecureServer[] = [];
  try {
    for (const endpoint of options.endpoints) {
      const server = createServer(options, sessions, perAddress);
      server.on("stream", (call: ServerHttp2Stream) => {
        calls.add(call);
        call.once("close", () => calls.delete(call));
      });
      servers.push(server);
      await bind(server, endpoint);
    }
  } catch (error) {
    for (const server of servers) server.close();
    throw error;
  }
  return {
    addresses: servers.map((server) => formatAddress(server.address() as AddressInfo)),
    replaceCredentials: (credentials) => {
      for (const server of servers) server.setSecureContext(tls(credentials));
    },
    sessions: () => sessions.size,
    drain: (milliseconds) => drain(servers, sessions, calls, milliseconds),
  };
}

function createServer(options: ListenerOptions, sessions: Set<ServerHttp2Session>, perAddress: Map<string, number>) {
  const { credentials, handler, onCut } = options;
  const server = createSecureServer({
    ...tls(credentials),
    handshakeTimeout: HANDSHAKE_MILLISECONDS,
    settings: { maxConcurrentStreams: CALLS_PER_CONNECTION, enablePush: false },
  });
  server.maxConnections = CONNECTIONS;
  // Emitted with the raw socket, before TLS has cost anything.
  server.on("connection", (socket: Socket) => {
    const address = socket.remoteAddress ?? "";
    const open = (perAddress.get(address) ?? 0) + 1;
    perAddress.set(address, open);
    socket.once("close", () => {
      const left = (perAddress.get(address) ?? 1) - 1;
      if (left > 0) perAddress.set(address, left);
      else perAddress.delete(address);
    });
    if (open <= CONNECTIONS_PER_ADDRESS) return;
    onCut(address, `more than ${CONNECTIONS_PER_ADDRESS} connections from one address`);
    socket.destroy();
  });
  server.on("tlsClientError", (error: Error, socket: TLSSocket) => {
    onCut(socket.remoteAddress ?? "", `TLS handshake: ${error.message}`);
    socket.destroy();
  });
  server.on("session", (session: ServerHttp2Session) => watchSession(session, sessions, options));
  server.on("sessionError", (error: Error) => onCut("", `HTTP/2: ${error.message}`));
  server.on("request", handler);
  return server;
}

function watchSession(
  session: ServerHttp2Session,
  sessions: Set<ServerHttp2Session>,
  { onCut, firstCallMilliseconds = FIRST_CALL_MILLISECONDS }: ListenerOptions,
): void {
  const address = session.socket?.remoteAddress ?? "";
  sessions.add(session);
  const cut = (reason: string): void => {
    if (session.destroyed) return;
    onCut(address, reason);
    session.destroy();
  };
  const first = setTimeout(() => cut(`no call within ${firstCallMilliseconds} ms`), firstCallMilliseconds);
  session.once("stream", () => clearTimeout(first));
  let alive = performance.now();
  let tick = alive;
  const keepalive = setInterval(() => {
    const now = performance.now();
    // After a pause of our own the answers still lie in the sockets: that is not the peers' silence.
    if (now - tick > 2 * PING_INTERVAL_MILLISECONDS) alive = now;
    tick = now;
    if (now - alive > PING_INTERVAL_MILLISECONDS + PING_TIMEOUT_MILLISECONDS) {
      cut(`no PING answered for ${PING_TIMEOUT_MILLISECONDS} ms`);
    } else if (!session.destroyed && !session.closed) {
      session.ping((error) => {
        if (error === null) alive = performance.now();
      });
    }
  }, PING_INTERVAL_MILLISECONDS);
  session.once("close", () => {
    clearTimeout(first);
    clearInterval(keepalive);
    sessions.delete(session);
  });
}

function bind(server: Http2SecureServer, { host, port }: Endpoint): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (cause: Error): void =>
      reject(meshError("E_CONTROL_LISTEN_FAILED", `control cannot listen on ${host} port ${port}`, cause));
    server.once("error", onError);
    // ipv6Only: a v6 wildcard must not take the v4 one's place, whatever bindv6only says.
    server.listen({ host, port, ipv6Only: host.includes(":") }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}

async function drain(
  servers: readonly Http2SecureServer[],
  sessions: ReadonlySet<ServerHttp2Session>,
  calls: ReadonlySet<ServerHttp2Stream>,
  milliseconds: number,
): Promise<number> {
  const closed = servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())));
  for (const session of sessions) session.close(); // GOAWAY; calls that are open may end
  // Daemons leave their half of a call open when we have ended ours, and the connection with it.
  const over = setInterval(() => {
    for (const call of calls) if (call.state.localClose === 1) call.close(constants.NGHTTP2_NO_ERROR);
  }, OVER_MILLISECONDS);
  const deadline = Promise.withResolvers<number>();
  const timer = setTimeout(() => {
    const left = [...sessions];
    for (const session of left) session.destroy();
    deadline.resolve(left.length);
  }, milliseconds);
  const cut = await Promise.race([Promise.all(closed).then(() => 0), deadline.promise]);
  clearTimeout(timer);
  clearInterval(over);
  return cut;
}

/** No certificate is asked of clients: the token names the node. No callback of ours runs inside a handshake: one that throws ends Node. */
const tls = ({ key, chain }: Credentials) => ({ key, cert: chain, minVersion: "TLSv1.3" as const, ALPNProtocols: ["h2"] });

const formatAddress = ({ address, family, port }: AddressInfo): string =>
  family === "IPv6" ? `[${address}]:${port}` : `${address}:${port}`;
