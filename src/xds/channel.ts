// One authenticated gRPC connection to control, shared by discovery, certificates and node reports.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { ClientHttp2Stream } from "node:http2";
import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { bounds } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";

type SessionManager = NonNullable<Parameters<typeof createGrpcTransport>[0]["sessionManager"]> & { abort(reason?: Error): void };

export type ChannelOptions = {
  /** https://ADDRESS:15012 */
  readonly control: string;
  /** PEM file with the roots that control's certificate must chain to; read again for every new connection. */
  readonly root: string;
  /** File with this node's bearer token; read again for every call. */
  readonly token: string;
  /** Address of this end, where one machine plays many nodes. */
  readonly localAddress?: string;
  /** A dead control is found within the sum of both. */
  readonly keepalive?: { readonly intervalMilliseconds: number; readonly timeoutMilliseconds: number };
};

export type ControlChannel = {
  /** For `createClient(Service, channel.transport)`. A call opens the connection when there is none. */
  readonly transport: Transport;
  /** Cuts the connection and every call on it; the next call opens a new one. */
  abort(reason?: Error): void;
};

/** A black-holed control must not hold a call for the kernel's two minutes of SYN retries. */
const CONNECT_MILLISECONDS = 5_000;
/** Longer than a busy or paused control takes to answer, shorter than anybody waits for news. */
const KEEPALIVE = { intervalMilliseconds: 10_000, timeoutMilliseconds: 10_000 };

export function controlChannel(options: ChannelOptions): ControlChannel {
  const sessions = sessionManager(options);
  const transport = createGrpcTransport({
    baseUrl: options.control,
    sessionManager: sessions,
    readMaxBytes: bounds.grpcMessageBytes,
    writeMaxBytes: bounds.grpcMessageBytes,
    acceptCompression: [],
    interceptors: [
      (next) => async (request) => {
        request.header.set("authorization", `Bearer ${await readToken(options.token)}`);
        return next(request);
      },
    ],
  });
  return { transport, abort: (reason) => sessions.abort(reason) };
}

/** What verification says when the other side is not the control of our root, or one of the two clocks is wrong. */
const DISTRUST: ReadonlySet<unknown> = new Set([
  "CERT_HAS_EXPIRED",
  "CERT_NOT_YET_VALID",
  "CERT_SIGNATURE_FAILURE",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "ERR_TLS_CERT_ALTNAME_INVALID",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

/** Null when it was not the certificate: then it is the network, and its own words are good enough. */
function distrusted(error: unknown, { control, root }: ChannelOptions): Error | null {
  for (let cause = error; cause instanceof Error; cause = cause.cause)
    if ("code" in cause && DISTRUST.has(cause.code))
      return meshError(
        "E_CONTROL_AWAY",
        `the certificate of ${control} is not trusted; ${root} must be that control's root-cert.pem`,
        cause,
      );
  return null;
}

async function readToken(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (cause) {
    throw meshError("E_CONTROL_UNAUTHENTICATED", `the token file ${path} cannot be read`, cause);
  }
}

/** The library's session manager, but one that trusts the roots that are in the file now: a new one is made when they changed. */
function sessionManager(options: ChannelOptions): SessionManager {
  const { keepalive = KEEPALIVE, localAddress } = options;
  let ca = "";
  let current = manager("");
  let previous = current;

  function manager(roots: string): Http2SessionManager {
    return new Http2SessionManager(
      options.control,
      { pingIntervalMs: keepalive.intervalMilliseconds, pingTimeoutMs: keepalive.timeoutMilliseconds },
      { ca: roots, minVersion: "TLSv1.3", ALPNProtocols: ["h2"], ...(localAddress === undefined ? {} : { localAddress }) },
    );
  }

  /** Read in one go with the caller's turn: two calls at once must not make two connections. */
  function trusted(): Http2SessionManager {
    const roots = readRoots(options.root);
    if (roots !== ca) {
      ca = roots;
      previous = current; // lives until its last call ends: changed roots do not cut what was already verified
      current = manager(roots);
    }
    return current;
  }

  async function connected(): Promise<Http2SessionManager> {
    const session = trusted();
    const away = meshError("E_CONTROL_AWAY", `${options.control} did not accept a connection within ${CONNECT_MILLISECONDS} ms`);
    const timer = setTimeout(() => session.state() === "connecting" && session.abort(away), CONNECT_MILLISECONDS);
    try {
      if ((await session.connect()) === "error") throw distrusted(session.error(), options) ?? session.error() ?? away;
      return session;
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    authority: new URL(options.control).origin,
    request: async (method, path, headers, streamOptions) => (await connected()).request(method, path, headers, streamOptions),
    notifyResponseByteRead: (stream: ClientHttp2Stream) => {
      current.notifyResponseByteRead(stream);
      if (previous !== current) previous.notifyResponseByteRead(stream);
    },
    abort: (reason) => {
      current.abort(reason);
      if (previous !== current) previous.abort(reason);
    },
  };
}

/** SHA-256 of each root certificate in the file: which mesh this is, before control answers. */
export function rootsOf(path: string): string[] {
  const certificates = readRoots(path).match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return certificates.map((text) =>
    createHash("sha256")
      .update(Buffer.from(text.replace(/-----[^-]+-----|\s/g, ""), "base64"))
      .digest("hex"),
  );
}

function readRoots(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw meshError("E_CONTROL_AWAY", `control's root certificates ${path} cannot be read`, cause);
  }
}
