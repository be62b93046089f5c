// The blocks of a pcapng file (draft-ietf-opsawg-pcapng): what Wireshark, tshark and tcpdump read. Pure; little endian.

/** Packets begin with an IP header. */
const LINKTYPE_RAW = 101;
/** Packets are cut by who records them, not here. */
const SNAP_BYTES = 0x40000;
const NANOSECONDS = 9;
const block = { section: 0x0a0d0d0a, interface: 1, names: 4, statistics: 5, packet: 6 } as const;
const option = { end: 0, comment: 1, hardware: 2, os: 3, application: 4, name: 2, description: 3, resolution: 9, dropped: 5 } as const;

type Option = readonly [code: number, value: string | Uint8Array];

export const sectionHeader = (application: string, comment: string): Buffer => {
  const fixed = Buffer.alloc(16);
  fixed.writeUInt32LE(0x1a2b3c4d, 0); // tells the byte order
  fixed.writeUInt16LE(1, 4);
  fixed.writeBigInt64LE(-1n, 8); // as long as the file
  return write(block.section, fixed, [
    [option.application, application],
    [option.comment, comment],
  ]);
};

/** Interfaces are numbered from 0, in the order of their blocks. */
export const interfaceDescription = (name: string, description: string): Buffer => {
  const fixed = Buffer.alloc(8);
  fixed.writeUInt16LE(LINKTYPE_RAW, 0);
  fixed.writeUInt32LE(SNAP_BYTES, 4);
  return write(block.interface, fixed, [
    [option.name, name],
    [option.description, description],
    [option.resolution, Uint8Array.of(NANOSECONDS)],
  ]);
};

/** `time`: Unix nanoseconds. `length` is that of the packet before it was cut. */
export const enhancedPacket = (face: number, time: bigint, packet: Uint8Array, length: number, comments: readonly string[]): Buffer => {
  const fixed = Buffer.alloc(20 + padded(packet.length));
  fixed.writeUInt32LE(face, 0);
  fixed.writeUInt32LE(Number((time >> 32n) & 0xffffffffn), 4);
  fixed.writeUInt32LE(Number(time & 0xffffffffn), 8);
  fixed.writeUInt32LE(packet.length, 12);
  fixed.writeUInt32LE(length, 16);
  fixed.set(packet, 20);
  return write(
    block.packet,
    fixed,
    comments.map((comment) => [option.comment, comment]),
  );
};

/** Names of addresses, 4 or 16 bytes. */
export const nameResolution = (names: readonly (readonly [address: Uint8Array, name: string])[]): Buffer => {
  const records = names.map(([address, name]) => {
    const value = Buffer.concat([address, Buffer.from(`${name}\0`)]);
    return field(address.length === 4 ? 1 : 2, value);
  });
  return write(block.names, Buffer.concat([...records, Buffer.alloc(4)]), []);
};

/** What an interface did not deliver until then. */
export const interfaceStatistics = (face: number, time: bigint, dropped: number): Buffer => {
  const fixed = Buffer.alloc(12);
  fixed.writeUInt32LE(face, 0);
  fixed.writeUInt32LE(Number((time >> 32n) & 0xffffffffn), 4);
  fixed.writeUInt32LE(Number(time & 0xffffffffn), 8);
  const count = Buffer.alloc(8);
  count.writeBigUInt64LE(BigInt(dropped));
  return write(block.statistics, fixed, [[option.dropped, count]]);
};

function write(type: number, fixed: Uint8Array, options: readonly Option[]): Buffer {
  const fields = options.map(([code, value]) => field(code, typeof value === "string" ? Buffer.from(value) : value));
  if (fields.length > 0) fields.push(Buffer.alloc(4)); // opt_endofopt
  const length = 12 + fixed.length + fields.reduce((total, { length: size }) => total + size, 0);
  const [head, tail] = [Buffer.alloc(8), Buffer.alloc(4)];
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(length, 4);
  tail.writeUInt32LE(length, 0);
  return Buffer.concat([head, fixed, ...fields, tail]);
}

/** Code, length, and the value filled up to whole words. */
function field(code: number, value: Uint8Array): Buffer {
  const bytes = Buffer.alloc(4 + padded(value.length));
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt16LE(value.length, 2);
  bytes.set(value, 4);
  return bytes;
}

const padded = (length: number): number => Math.ceil(length / 4) * 4;
