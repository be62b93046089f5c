// One DNS query to one server over UDP or TCP, without any resolver's retries, caches and search lists: what the wire says.
import { randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { formatAddress } from "#mesh/address.ts";

const TYPES = { A: 1, AAAA: 28 } as const;
const HEADER = 12;
const LIMIT_MS = 8000;

export type Query = {
  readonly server: string;
  readonly name: string;
  readonly type: keyof typeof TYPES;
  readonly transport: "udp" | "tcp";
};
/** `rcode` as in RFC 1035: 0 answered, 2 SERVFAIL, 3 no such name, 5 refused. `from` is the address that answered. */
export type Answer = { readonly rcode: number; readonly addresses: readonly string[]; readonly ms: number; readonly from: string };

export async function query({ server, name, type, transport }: Query): Promise<Answer> {
  const id = randomInt(65_536);
  const started = performance.now();
  const { message, from } = await (transport === "udp" ? overUdp : overTcp)(server, encode(id, name, TYPES[type]));
  if (message.readUInt16BE(0) !== id) throw new Error("the answer has another id than the query");
  return { ...decode(message, TYPES[type]), from, ms: performance.now() - started };
}

type Reply = { readonly message: Buffer; readonly from: string };

function encode(id: number, name: string, type: number): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt16BE(id, 0);
  header.writeUInt16BE(0x0100, 2); // recursion desired
  header.writeUInt16BE(1, 4);
  const labels = name.split(".").flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, "latin1")]);
  return Buffer.concat([header, ...labels, Buffer.from([0, 0, type, 0, 1])]);
}

function decode(message: Buffer, type: number): Pick<Answer, "rcode" | "addresses"> {
  const rcode = message.readUInt16BE(2) & 15;
  let at = skipName(message, HEADER) + 4;
  const addresses: string[] = [];
  for (let record = 0; record < message.readUInt16BE(6); record++) {
    at = skipName(message, at);
    const length = message.readUInt16BE(at + 8);
    if (message.readUInt16BE(at) === type) addresses.push(formatAddress(message.subarray(at + 10, at + 10 + length)));
    at += 10 + length;
  }
  return { rcode, addresses };
}

function skipName(message: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const length = message.readUInt8(at);
    if (length >= 0xc0) return at + 2;
    at += 1 + length;
    if (length === 0) return at;
  }
}

function overUdp(server: string, message: Buffer): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(server.includes(":") ? "udp6" : "udp4");
    const timer = setTimeout(() => fail(new Error(`no answer within ${LIMIT_MS} ms`)), LIMIT_MS);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      socket.close();
      reject(error);
    };
    socket.once("error", fail);
    socket.once("message", (reply, { address }) => {
      clearTimeout(timer);
      socket.close();
      resolve({ message: reply, from: address });
    });
    socket.send(message, 53, server);
  });
}

function overTcp(server: string, message: Buffer): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: server, port: 53, timeout: LIMIT_MS });
    let received = Buffer.alloc(0);
    socket.once("connect", () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(message.length);
      socket.write(Buffer.concat([length, message]));
    });
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
      resolve({ message: received.subarray(2), from: socket.remoteAddress ?? "" });
      socket.destroy();
    });
    socket.once("timeout", () => socket.destroy(new Error(`no answer within ${LIMIT_MS} ms`)));
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed without an answer")));
  });
}
