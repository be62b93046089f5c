// An HBONE client and server on Node's own tls and http2: the independent peer that the engine is tested against. It shares no code with
// the engine, and it can misbehave where a test asks it to.
import http2 from "node:http2";
import { connect as connectTcp } from "node:net";
import type { Duplex } from "node:stream";
import tls from "node:tls";

export type Credentials = { readonly key: string; readonly cert: string; readonly ca: string };

export type ClientOptions = {
  readonly host: string;
  readonly port: number;
  readonly credentials: Credentials | null;
  /** Local address to dial from. */
  readonly localAddress?: string;
  readonly alpn?: readonly string[];
  readonly maxVersion?: "TLSv1.2" | "TLSv1.3";
};

export type PeerSession = { readonly session: http2.ClientHttp2Session; readonly peerUris: readonly string[]; close(): void };

const DEADLINE_MS = 5000;

/** URI SANs of the other side, in order. */
function peerUris(socket: tls.TLSSocket): string[] {
  const names = socket.getPeerX509Certificate()?.subjectAltName ?? "";
  return names.split(", ").flatMap((name) => (name.startsWith("URI:") ? [name.slice(4)] : []));
}

/** Dials an HBONE port and finishes the TLS handshake and the HTTP/2 preface. Rejects with what the peer did wrong. */
export async function connectPeer(options: ClientOptions): Promise<PeerSession> {
  const { host, port, credentials, localAddress, alpn = ["h2"], maxVersion = "TLSv1.3" } = options;
  const tcp = connectTcp({ host, port, ...(localAddress === undefined ? {} : { localAddress }) });
  const socket = tls.connect({
    socket: tcp,
    ALPNProtocols: [...alpn],
    minVersion: "TLSv1.2",
    maxVersion,
    ...(credentials ?? { rejectUnauthorized: false }),
    // The identity is a URI SAN; tests compare it themselves.
    checkServerIdentity: () => undefined,
  });
  await settled(socket, "secureConnect");
  const session = http2.connect(`https://${host.includes(":") ? `[${host}]` : host}:${port}`, { createConnection: () => socket });
  // TLS 1.3 tells a client that its certificate was refused only after the handshake: the peer's SETTINGS are the proof of acceptance.
  // Node's session does not pass on what happens to its socket, and the alert arrives there.
  await settled(session, "remoteSettings", socket);
  return { session, peerUris: peerUris(socket), close: () => session.destroy() };
}

/** Resolves with the event; rejects when the emitter, or what carries it, fails or closes before. */
function settled(emitter: NodeJS.EventEmitter, event: string, carrier?: NodeJS.EventEmitter): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${event} within ${DEADLINE_MS} ms`)), DEADLINE_MS);
    const fail = (error: unknown): void => {
      clearTimeout(timer);
      reject(error instanceof Error ? error : new Error(`closed before ${event}`));
    };
    emitter.once(event, () => {
      clearTimeout(timer);
      resolve();
    });
    for (const failing of carrier === undefined ? [emitter] : [emitter, carrier]) {
      failing.once("error", fail);
      failing.once("close", () => fail(undefined));
    }
  });
}

export type Connected = { readonly status: number; readonly headers: http2.IncomingHttpHeaders; readonly stream: http2.ClientHttp2Stream };

/** One CONNECT. Resolves with the status whatever it is; headers other than the authority are the caller's. */
export function connectStream(
  peer: PeerSession,
  authority: string,
  headers: http2.OutgoingHttpHeaders = {},
  deadlineMs = DEADLINE_MS,
): Promise<Connected> {
  return new Promise((resolve, reject) => {
    const stream = peer.session.request({ ":method": "CONNECT", ":authority": authority, ...headers }, { endStream: false });
    const timer = setTimeout(() => reject(new Error(`no answer to CONNECT ${authority} within ${deadlineMs} ms`)), deadlineMs);
    stream.once("response", (answer) => {
      clearTimeout(timer);
      resolve({ status: Number(answer[":status"]), headers: answer, stream });
    });
    stream.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
  });
}

export type Accepted = { readonly authority: string; readonly headers: http2.IncomingHttpHeaders; readonly peerUris: readonly string[] };

export type PeerServer = { readonly port: number; readonly accepted: readonly Accepted[]; close(): Promise<void> };

/** An HBONE server: TLS 1.3, client certificate required, CONNECT answered with 200 and handed to `serve`. */
export function servePeer(
  host: string,
  port: number,
  credentials: Credentials,
  serve: (stream: Duplex, request: Accepted) => void,
): Promise<PeerServer> {
  const accepted: Accepted[] = [];
  const sessions = new Set<http2.ServerHttp2Session>();
  const server = http2.createSecureServer({
    ...credentials,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3",
    ALPNProtocols: ["h2"],
  });
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
    session.on("error", () => session.destroy());
  });
  server.on("stream", (stream, headers) => {
    const socket = stream.session?.socket;
    const request = {
      authority: String(headers[":authority"] ?? ""),
      headers,
      peerUris: socket instanceof tls.TLSSocket ? peerUris(socket) : [],
    };
    stream.on("error", () => stream.destroy());
    if (headers[":method"] !== "CONNECT") return stream.respond({ ":status": 400 }, { endStream: true });
    accepted.push(request);
    stream.respond({ ":status": 200 });
    serve(stream, request);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      const address = server.address();
      const close = (): Promise<void> =>
        new Promise((done) => {
          for (const session of sessions) session.destroy();
          server.close(() => done());
        });
      resolve({ port: typeof address === "object" && address !== null ? address.port : port, accepted, close });
    });
  });
}
