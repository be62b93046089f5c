// Reads what tcpdump wrote: TCP streams put together again, so that a text is found even where packets cut it, and TLS is told from the rest.
import { formatAddress } from "#mesh/address.ts";

// Link types of pcap files: Ethernet, and the two "cooked" ones that -i any gives.
const HEADER_BYTES: Readonly<Record<number, { readonly length: number; readonly typeAt: number }>> = {
  1: { length: 14, typeAt: 12 },
  113: { length: 16, typeAt: 14 },
  276: { length: 20, typeAt: 0 },
};
const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
const ETHERTYPE = { v4: 0x0800, v6: 0x86dd } as const;
const TCP = 6;
const SYN = 0x02;

/** One direction of one connection. */
export type Stream = {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
  /** Payload in order; what was sent twice is there once. */
  readonly bytes: Buffer;
  /** The capture has the first byte (it saw the SYN) and no hole. */
  readonly whole: boolean;
};

type Segment = { readonly key: string; readonly sequence: number; readonly syn: boolean; readonly payload: Buffer } & Omit<
  Stream,
  "bytes" | "whole"
>;

/** Every TCP stream with at least one byte of payload. */
export function tcpStreams(file: Buffer): Stream[] {
  const streams = new Map<string, Segment[]>();
  for (const segment of segments(file)) {
    const known = streams.get(segment.key);
    // A new SYN with another sequence number is a new connection that reuses the ports.
    const reused = segment.syn && known?.some(({ syn, sequence }) => syn && sequence !== segment.sequence) === true;
    if (known === undefined) streams.set(segment.key, [segment]);
    else if (reused) {
      streams.set(`${segment.key} ${streams.size}`, known);
      streams.set(segment.key, [segment]);
    } else known.push(segment);
  }
  return [...streams.values()].map(assemble).filter(({ bytes }) => bytes.length > 0);
}

/** Whether the text is anywhere in the capture: in a stream, or in any packet of any protocol. */
export function holds(file: Buffer, text: string): boolean {
  return file.includes(text) || tcpStreams(file).some(({ bytes }) => bytes.includes(text));
}

const RECORD_TYPES: ReadonlySet<number> = new Set([20, 21, 22, 23]); // change cipher spec, alert, handshake, application data
const LONGEST_RECORD = 16384 + 256;

/** Why a stream is not TLS records from its first byte on, null when it is. The last record may be cut by the end of the capture. */
export function notTls({ bytes, whole }: Stream): string | null {
  if (!whole) return "its beginning or a part is missing";
  for (let at = 0; at + 5 <= bytes.length; ) {
    const [type = 0, major = 0] = bytes.subarray(at, at + 2);
    const length = bytes.readUInt16BE(at + 3);
    if (!RECORD_TYPES.has(type) || major !== 3 || length > LONGEST_RECORD) return `byte ${at} does not begin a TLS record`;
    if (at === 0 && type !== 22) return "it does not begin with a handshake";
    at += 5 + length;
  }
  return null;
}

function* segments(file: Buffer): Generator<Segment> {
  if (file.readUInt32LE(0) !== MAGIC_MICROSECONDS) throw new Error("not a pcap file of this machine's byte order");
  const link = HEADER_BYTES[file.readUInt32LE(20)];
  if (link === undefined) throw new Error(`pcap link type ${file.readUInt32LE(20)} is not known here`);
  for (let at = FILE_HEADER; at + RECORD_HEADER <= file.length; ) {
    const captured = file.readUInt32LE(at + 8);
    const packet = file.subarray(at + RECORD_HEADER, at + RECORD_HEADER + captured);
    at += RECORD_HEADER + captured;
    if (packet.length < captured || packet.length < link.length) continue;
    const segment = parseIp(packet.subarray(link.length), packet.readUInt16BE(link.typeAt));
    if (segment !== null) yield segment;
  }
}

function parseIp(ip: Buffer, type: number): Segment | null {
  if (type === ETHERTYPE.v4 && ip.length >= 20 && ip[9] === TCP) {
    const header = ((ip[0] ?? 0) & 15) * 4;
    return parseTcp(ip.subarray(header, ip.readUInt16BE(2)), formatAddress(ip.subarray(12, 16)), formatAddress(ip.subarray(16, 20)));
  }
  // No extension headers: TCP between pods carries none. A length of 0 would be a jumbogram, which veths do not make by default.
  if (type === ETHERTYPE.v6 && ip.length >= 40 && ip[6] === TCP)
    return parseTcp(ip.subarray(40, 40 + ip.readUInt16BE(4)), formatAddress(ip.subarray(8, 24)), formatAddress(ip.subarray(24, 40)));
  return null;
}

function parseTcp(tcp: Buffer, source: string, destination: string): Segment | null {
  if (tcp.length < 20) return null;
  const [sourcePort, destinationPort] = [tcp.readUInt16BE(0), tcp.readUInt16BE(2)];
  const payload = tcp.subarray(((tcp[12] ?? 0) >> 4) * 4);
  const key = `${source} ${sourcePort} ${destination} ${destinationPort}`;
  return {
    key,
    source,
    sourcePort,
    destination,
    destinationPort,
    sequence: tcp.readUInt32BE(4),
    syn: ((tcp[13] ?? 0) & SYN) !== 0,
    payload,
  };
}

function assemble(all: readonly Segment[]): Stream {
  const [first] = all;
  if (first === undefined) throw new Error("a stream has at least one segment");
  const { source, sourcePort, destination, destinationPort } = first;
  const syn = all.find((segment) => segment.syn);
  const start = syn === undefined ? first.sequence : (syn.sequence + 1) >>> 0;
  const offset = (segment: Segment): number => (segment.sequence + (segment.syn ? 1 : 0) - start) | 0; // modulo 2^32, signed
  const ordered = all.filter(({ payload }) => payload.length > 0).sort((a, b) => offset(a) - offset(b));
  const parts: Buffer[] = [];
  let end = 0;
  let whole = syn !== undefined;
  for (const segment of ordered) {
    const at = offset(segment);
    if (at > end) whole = false;
    const fresh = segment.payload.subarray(Math.max(0, end - at));
    parts.push(fresh);
    end = Math.max(end, at + segment.payload.length);
  }
  return { source, sourcePort, destination, destinationPort, bytes: Buffer.concat(parts), whole };
}
