// One TCP segment in an IP packet, as it would have been on a link: headers with checksums that are right. Pure.
import { parseAddress } from "#mesh/address.ts";

export type End = { readonly address: Uint8Array; readonly port: number };

export const flags = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 } as const;

export type Segment = {
  readonly source: End;
  readonly destination: End;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** What the payload was before it was cut: the headers speak of this. */
  readonly length: number;
};

/** What fits an Ethernet frame; the options below are in SYN segments only. */
export const SEGMENT_BYTES = 1440;
/** As large as TCP allows (RFC 7323): nobody looks at a window here, and one that were full would look like trouble. */
const WINDOW = 0xffff;
const WINDOW_SHIFT = 14;
const TCP = 6;
const HOPS = 64;
const IP_HEADER = { v4: 20, v6: 40 } as const;
const TCP_HEADER = 20;

export function packet(segment: Segment): Buffer {
  const { source, destination, payload } = segment;
  const v4 = source.address.length === 4;
  const ip = v4 ? IP_HEADER.v4 : IP_HEADER.v6;
  const options = (segment.flags & flags.syn) === 0 ? Buffer.alloc(0) : synOptions(SEGMENT_BYTES);
  const header = TCP_HEADER + options.length;
  const bytes = Buffer.alloc(ip + header + payload.length);
  const length = header + segment.length;
  if (v4) {
    bytes[0] = 0x45;
    bytes.writeUInt16BE(ip + length, 2);
    bytes.writeUInt16BE(0x4000, 6); // don't fragment
    bytes[8] = HOPS;
    bytes[9] = TCP;
    bytes.set(source.address, 12);
    bytes.set(destination.address, 16);
    bytes.writeUInt16BE(finish(sum(bytes.subarray(0, ip))), 10);
  } else {
    bytes[0] = 0x60;
    bytes.writeUInt16BE(length, 4);
    bytes[6] = TCP;
    bytes[7] = HOPS;
    bytes.set(source.address, 8);
    bytes.set(destination.address, 24);
  }
  bytes.writeUInt16BE(source.port, ip);
  bytes.writeUInt16BE(destination.port, ip + 2);
  bytes.writeUInt32BE(segment.sequence >>> 0, ip + 4);
  bytes.writeUInt32BE(segment.acknowledgement >>> 0, ip + 8);
  bytes[ip + 12] = (header / 4) << 4;
  bytes[ip + 13] = segment.flags;
  bytes.writeUInt16BE(WINDOW, ip + 14);
  bytes.set(options, ip + TCP_HEADER);
  bytes.set(payload, ip + header);
  // Of bytes that are not here there is no checksum; readers do not look at that of a packet that was cut.
  if (segment.length === payload.length) {
    const pseudo = sum(source.address) + sum(destination.address) + TCP + length;
    bytes.writeUInt16BE(finish(sum(bytes.subarray(ip)) + pseudo), ip + 16);
  }
  return bytes;
}

/** Maximum segment size; a no-operation and the window's scale. */
const synOptions = (size: number): Buffer => Buffer.from([2, 4, size >> 8, size & 0xff, 1, 3, 3, WINDOW_SHIFT]);

/** Of 16-bit words, a last odd byte being the high one of its word. */
function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i + 1 < bytes.length; i += 2) total += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  if (bytes.length % 2 === 1) total += (bytes[bytes.length - 1] ?? 0) << 8;
  return total;
}

/** RFC 1071: carries are added again, the complement is what is written. */
function finish(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}

/** Null for what a flow record does not know. */
export function endOf({ address, port }: { readonly address: string; readonly port: number }): End | null {
  const bytes = parseAddress(address);
  return bytes === null ? null : { address: bytes, port };
}
