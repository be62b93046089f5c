// What the two hellos of a captured TLS connection say in the clear: the version that was chosen, and whether a server name was told.

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const SERVER_HELLO = 2;
const EXTENSION = { serverName: 0, supportedVersions: 43 } as const;

export type Hello = { readonly from: "client" | "server"; readonly serverName: boolean; readonly version: string };

/** The hello at the beginning of one direction of a TLS connection. */
export function hello(stream: Buffer): Hello {
  const kind = stream[5];
  if (stream[0] !== HANDSHAKE || (kind !== CLIENT_HELLO && kind !== SERVER_HELLO))
    throw new Error("the stream does not begin with a hello");
  const server = kind === SERVER_HELLO;
  let at = 5 + 4 + 2 + 32;
  at += 1 + stream.readUInt8(at); // session id
  at += server ? 2 : 2 + stream.readUInt16BE(at); // cipher suites
  at += server ? 1 : 1 + stream.readUInt8(at); // compression
  const extensions = new Map<number, Buffer>();
  const end = at + 2 + stream.readUInt16BE(at);
  for (at += 2; at < end; at += 4 + stream.readUInt16BE(at + 2))
    extensions.set(stream.readUInt16BE(at), stream.subarray(at + 4, at + 4 + stream.readUInt16BE(at + 2)));
  const versions = extensions.get(EXTENSION.supportedVersions);
  return {
    from: server ? "server" : "client",
    serverName: extensions.has(EXTENSION.serverName),
    version: versions?.subarray(-2).toString("hex") ?? stream.subarray(9, 11).toString("hex"),
  };
}
