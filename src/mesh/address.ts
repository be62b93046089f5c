// IP addresses and CIDR blocks between text and network-order bytes, one spelling each.
import { isIPv4, isIPv6 } from "node:net";

export type Cidr = { readonly address: Uint8Array; readonly length: number };

/** 4 or 16 bytes in network order, null for text that is no address. An IPv4-mapped IPv6 address becomes IPv4; zones are refused. */
export function parseAddress(text: string): Uint8Array | null {
  if (isIPv4(text)) {
    const [a, b, c, d] = text.split(".");
    return Uint8Array.of(Number(a), Number(b), Number(c), Number(d));
  }
  if (!isIPv6(text) || text.includes("%")) return null;
  const bytes = parseGroups(text);
  return isMapped(bytes) ? bytes.slice(12) : bytes;
}

/** "10.0.0.1" or RFC 5952's "fd00::1"; empty for bytes that are no address. */
export function formatAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.length !== 16) return "";
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0)).toString(16));
  return compress(groups);
}

/** The one spelling of an address, so that texts can be compared; empty for text that is no address. */
export function spellAddress(text: string): string {
  if (isIPv4(text)) return text; // leading zeros are refused, so that it has no other
  const bytes = parseAddress(text);
  return bytes === null ? "" : formatAddress(bytes);
}

/** "ADDRESS/LENGTH", or an address alone for a block of one. Bits behind the length are cleared. Null when it is neither. */
export function parseCidr(text: string): Cidr | null {
  const [host = "", digits, ...rest] = text.split("/");
  const address = parseAddress(host);
  if (address === null || rest.length > 0) return null;
  const bits = address.length * 8;
  if (digits === undefined) return { address, length: bits };
  // A mapped address changed its width, so the length that belongs to it is ambiguous.
  if (!/^(0|[1-9][0-9]{0,2})$/.test(digits) || Number(digits) > bits || (bits === 32 && host.includes(":"))) return null;
  return { address: mask(address, Number(digits)), length: Number(digits) };
}

/** Always with its length: "10.0.0.0/8", "10.0.0.1/32". */
export const formatCidr = (cidr: Cidr): string => `${formatAddress(cidr.address)}/${cidr.length}`;

export const isIpv4 = (bytes: Uint8Array): boolean => bytes.length === 4;

/** Whether every address of `inner` is in `outer`. Blocks of different families never contain each other. */
export function cidrContains(outer: Cidr, inner: Cidr): boolean {
  if (outer.address.length !== inner.address.length || outer.length > inner.length) return false;
  const masked = mask(inner.address, outer.length);
  return masked.every((byte, i) => byte === outer.address[i]);
}

function mask(address: Uint8Array, length: number): Uint8Array {
  return address.map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, length - i * 8))) & 0xff);
}

function parseGroups(text: string): Uint8Array {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  const word = (high: string | undefined, low: string | undefined): string => ((Number(high) << 8) | Number(low)).toString(16);
  const plain = dotted === null ? text : `${dotted[1]}${word(dotted[2], dotted[3])}:${word(dotted[4], dotted[5])}`;
  const [left = "", right] = plain.split("::");
  const head = left === "" ? [] : left.split(":");
  const tail = right === undefined || right === "" ? [] : right.split(":");
  const groups = [...head, ...Array<string>(8 - head.length - tail.length).fill("0"), ...tail].map((group) => Number.parseInt(group, 16));
  return Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
}

const isMapped = (bytes: Uint8Array): boolean =>
  bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;

/** The longest run of at least two zero groups, the first of equals, becomes "::". */
function compress(groups: readonly string[]): string {
  let best = { start: 0, length: 1 };
  for (let start = 0; start < groups.length; start++) {
    let length = 0;
    while (groups[start + length] === "0") length++;
    if (length > best.length) best = { start, length };
  }
  if (best.length < 2) return groups.join(":");
  return `${groups.slice(0, best.start).join(":")}::${groups.slice(best.start + best.length).join(":")}`;
}
