import assert from "node:assert/strict";
import { test } from "node:test";
import { holds, notTls, tcpStreams } from "./pcap.ts";

/** A pcap file of Ethernet frames, each an IPv4 TCP segment from 10.0.0.1:1000 to 10.0.0.2:2000. */
function pcap(...segments: { sequence: number; syn?: boolean; payload?: Buffer }[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt32LE(1, 20);
  const frames = segments.flatMap(({ sequence, syn = false, payload = Buffer.alloc(0) }) => {
    const frame = Buffer.alloc(14 + 20 + 20);
    frame.writeUInt16BE(0x0800, 12);
    const [ip, tcp] = [frame.subarray(14), frame.subarray(34)];
    ip[0] = 0x45;
    ip.writeUInt16BE(40 + payload.length, 2);
    ip[9] = 6;
    ip.set([10, 0, 0, 1, 10, 0, 0, 2], 12);
    tcp.writeUInt16BE(1000, 0);
    tcp.writeUInt16BE(2000, 2);
    tcp.writeUInt32BE(sequence >>> 0, 4);
    tcp[12] = 5 << 4;
    tcp[13] = syn ? 2 : 16;
    const record = Buffer.alloc(16);
    record.writeUInt32LE(frame.length + payload.length, 8);
    return [record, frame, payload];
  });
  return Buffer.concat([header, ...frames]);
}

const text = (value: string): Buffer => Buffer.from(value);
const record = (type: number, length: number): Buffer =>
  Buffer.concat([Buffer.from([type, 3, 3, length >> 8, length & 255]), Buffer.alloc(length, 0x41)]);

test("a text that packets cut in two, out of order and twice is found", () => {
  // The sequence number wraps around inside the text.
  const file = pcap(
    { sequence: 0xfffffffe, syn: true },
    { sequence: 2, payload: text("RET") },
    { sequence: 0xffffffff, payload: text("SEC") },
    { sequence: 0xffffffff, payload: text("SECRE") },
  );
  assert.equal(tcpStreams(file)[0]?.bytes.toString(), "SECRET");
  assert.ok(!file.includes("SECRET"));
  assert.ok(holds(file, "SECRET"));
  assert.ok(!holds(file, "SECRETS"));
});

test("a hole and a missing beginning are told", () => {
  assert.equal(
    tcpStreams(pcap({ sequence: 1, syn: true }, { sequence: 2, payload: text("AB") }, { sequence: 4, payload: text("C") }))[0]?.whole,
    true,
  );
  assert.equal(
    tcpStreams(pcap({ sequence: 1, syn: true }, { sequence: 2, payload: text("AB") }, { sequence: 5, payload: text("C") }))[0]?.whole,
    false,
  );
  assert.equal(tcpStreams(pcap({ sequence: 2, payload: text("AB") }))[0]?.whole, false);
});

test("ports used again are another connection", () => {
  const file = pcap(
    { sequence: 1, syn: true },
    { sequence: 2, payload: text("A") },
    { sequence: 900, syn: true },
    { sequence: 901, payload: text("B") },
  );
  assert.deepEqual(
    tcpStreams(file)
      .map(({ bytes }) => bytes.toString())
      .sort(),
    ["A", "B"],
  );
});

test("TLS records from a handshake on are TLS, anything else is not", () => {
  const stream = (bytes: Buffer) => {
    const [first] = tcpStreams(pcap({ sequence: 0, syn: true }, { sequence: 1, payload: bytes }));
    assert.ok(first);
    return first;
  };
  assert.equal(notTls(stream(Buffer.concat([record(22, 90), record(20, 1), record(23, 500)]))), null);
  assert.equal(notTls(stream(Buffer.concat([record(22, 90), record(23, 500).subarray(0, 100)]))), null, "cut by the end of the capture");
  assert.match(notTls(stream(text("GET / HTTP/1.1\r\n"))) ?? "", /byte 0 does not begin/);
  assert.match(notTls(stream(Buffer.concat([record(22, 90), text("plain text")]))) ?? "", /byte 95 does not begin/);
  assert.match(notTls(stream(record(23, 90))) ?? "", /handshake/);
});
