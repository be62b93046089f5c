// A file says what was recorded and nothing else: read back by tshark where it is there, block by block in any case.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { FlowRecord } from "../flow.ts";
import type { RecordingLine } from "./recording.ts";
import { pcapWriter } from "./writer.ts";

const START = 1_700_000_000_000_000_000n;

const end = (address: string, port: number, workload: string): FlowRecord["source"] =>
  ({
    address,
    port,
    workload,
    pod: workload,
    namespace: "shop",
    identity: `spiffe://cluster.local/ns/shop/sa/${workload}`,
    node: "a",
  }) as FlowRecord["source"];

const flowOf = (address: readonly [string, string], more: Partial<FlowRecord> = {}): FlowRecord =>
  ({
    id: "1",
    phase: "opened",
    direction: "outbound",
    path: "tunnel",
    verdict: "allowed",
    policy: "shop/allow-web",
    rule: 0,
    code: null,
    reason: null,
    source: end(address[0], 40_000, "web"),
    destination: end(address[1], 80, "api"),
    service: "shop/api.shop.svc.cluster.local",
    bytesSent: 0,
    bytesReceived: 0,
    tls: null,
    closedBy: "client",
    reset: false,
    podUid: "uid-web",
    ...more,
  }) as FlowRecord;

const V4 = ["10.0.0.1", "10.0.0.2"] as const;
const V6 = ["fd00::1", "fd00::2"] as const;

let clock = START;
const tick = (): string => {
  clock += 1000n;
  return clock.toString();
};
const began: RecordingLine = {
  type: "began",
  pods: [{ uid: "uid-web", namespace: "shop", name: "web", node: "a", addresses: ["10.0.0.1", "fd00::1"] }],
};
const opened = (connection: string, flow: FlowRecord, sent = 0, received = 0): RecordingLine => ({
  type: "opened",
  connection,
  time: tick(),
  flow,
  sent,
  received,
});
const chunk = (connection: string, from: "client" | "server", offset: number, payload: Buffer, length = payload.length): RecordingLine => ({
  type: "chunk",
  connection,
  time: tick(),
  from,
  offset,
  length,
  payload,
});
const fin = (connection: string, from: "client" | "server", offset: number): RecordingLine => ({
  type: "fin",
  connection,
  time: tick(),
  from,
  offset,
});
const closed = (connection: string, flow: FlowRecord): RecordingLine => ({ type: "closed", connection, time: tick(), flow });

function write(lines: readonly RecordingLine[]): Buffer {
  const writer = pcapWriter("test", "a test");
  return Buffer.concat([writer.start(), ...lines.map((line) => writer.take("a", line)), writer.finish(clock)]);
}

const blocks = (file: Buffer): { readonly type: number; readonly body: Buffer }[] => {
  const all: { type: number; body: Buffer }[] = [];
  for (let at = 0; at < file.length; ) {
    const length = file.readUInt32LE(at + 4);
    assert.equal(length % 4, 0);
    assert.equal(file.readUInt32LE(at + length - 4), length, "the length stands at both ends");
    all.push({ type: file.readUInt32LE(at), body: file.subarray(at + 8, at + length - 4) });
    at += length;
  }
  return all;
};

test("blocks are whole, and come in the order that readers want", () => {
  const bytes = Buffer.from("hello");
  const file = write([
    began,
    opened("1", flowOf(V4)),
    chunk("1", "client", 0, bytes),
    fin("1", "client", 5),
    closed("1", flowOf(V4, { bytesSent: 5 })),
  ]);
  const types = blocks(file).map(({ type }) => type);
  assert.deepEqual(types.slice(0, 4), [0x0a0d0d0a, 1, 4, 4], "section, interface, names of the pod, names of the peer");
  assert.equal(types.at(-1), 5, "statistics");
  // SYN, SYN ACK, ACK; data, ACK; FIN, ACK; and the other side's FIN, ACK.
  assert.equal(types.filter((type) => type === 6).length, 9);
});

const tshark = hasTshark() ? false : "tshark is not installed";

function hasTshark(): boolean {
  try {
    execFileSync("tshark", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

function read(t: TestContext, file: Buffer, ...args: readonly string[]): string {
  const directory = mkdtempSync(join(tmpdir(), "pcapng-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "file.pcapng");
  writeFileSync(path, file);
  return execFileSync("tshark", ["-n", "-r", path, ...args], {
    encoding: "utf8",
    maxBuffer: 64 << 20,
    stdio: ["ignore", "pipe", "ignore"],
  });
}

/** The reader's own list of bytes by offset, of one side. */
function heard(t: TestContext, file: Buffer, port: number): { readonly at: number; readonly bytes: Buffer; readonly length: number }[] {
  const text = read(
    t,
    file,
    "-Y",
    `tcp.srcport==${port} && tcp.len>0`,
    "-T",
    "fields",
    "-e",
    "tcp.seq",
    "-e",
    "tcp.len",
    "-e",
    "tcp.payload",
  );
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => line.split("\t"))
    .map(([at = "", length = "", hex = ""]) => ({ at: Number(at) - 1, bytes: Buffer.from(hex, "hex"), length: Number(length) }));
}

test("chunks that were lost are gaps exactly where they were, and everything else is there", { skip: tshark }, (t) => {
  const seed = Math.trunc(Math.random() * 2 ** 31);
  t.diagnostic(`seed ${seed}`);
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % below;
  };
  for (const addresses of [V4, V6]) {
    const whole = { client: Buffer.alloc(200_000, 0), server: Buffer.alloc(200_000, 0) };
    for (const side of [whole.client, whole.server]) for (let i = 0; i < side.length; i++) side[i] = random(256);
    const there = { client: new Uint8Array(200_000), server: new Uint8Array(200_000) };
    const at = { client: 0, server: 0 };
    const lines: RecordingLine[] = [began, opened("1", flowOf(addresses))];
    while (at.client < 200_000 || at.server < 200_000) {
      const from = at.server >= 200_000 || (at.client < 200_000 && random(2) === 0) ? "client" : "server";
      const size = Math.min(1 + random(20_000), 200_000 - at[from]);
      if (random(3) > 0) {
        lines.push(chunk("1", from, at[from], whole[from].subarray(at[from], at[from] + size)));
        there[from].fill(1, at[from], at[from] + size);
      }
      at[from] += size;
    }
    lines.push(
      fin("1", "client", 200_000),
      fin("1", "server", 200_000),
      closed("1", flowOf(addresses, { bytesSent: 200_000, bytesReceived: 200_000 })),
    );
    const file = write(lines);
    for (const [side, port] of [
      ["client", 40_000],
      ["server", 80],
    ] as const) {
      const got = new Uint8Array(200_000);
      for (const piece of heard(t, file, port)) {
        assert.ok(piece.bytes.equals(whole[side].subarray(piece.at, piece.at + piece.bytes.length)), `${side} at ${piece.at}`);
        got.fill(1, piece.at, piece.at + piece.bytes.length);
      }
      assert.deepEqual(got, there[side], `what the ${side} said is there where it was copied, and nowhere else`);
    }
    const fins = read(t, file, "-Y", "tcp.flags.fin==1", "-T", "fields", "-e", "tcp.seq").trim().split("\n");
    assert.deepEqual(fins, ["200001", "200001"], "behind what is missing at the end, too");
    assert.match(read(t, file, "-T", "fields", "-e", "frame.comment"), /bytes from the client are missing before this/);
  }
});

test("a connection that was open before has no handshake and its own offsets; what was snapped keeps its length", { skip: tshark }, (t) => {
  const file = write([
    began,
    opened("1", flowOf(V4), 1000, 2000),
    chunk("1", "server", 2000, Buffer.from("abc"), 5000),
    closed("1", flowOf(V4, { bytesSent: 1000, bytesReceived: 7000, reset: true, closedBy: "server" })),
  ]);
  const rows = read(t, file, "-T", "fields", "-e", "tcp.srcport", "-e", "tcp.len", "-e", "frame.cap_len", "-e", "tcp.flags.str")
    .trim()
    .split("\n");
  assert.equal(rows.length, 4 + 1 + 1, "four segments, an acknowledgement, a reset");
  assert.deepEqual(rows[0]?.split("\t").slice(0, 3), ["80", "1440", "43"]);
  assert.deepEqual(rows[1]?.split("\t").slice(0, 3), ["80", "1440", "40"], "of what was not copied only headers");
  assert.match(rows.at(-1) ?? "", /R/);
  assert.doesNotMatch(rows.join(), /S/, "no SYN");
});

test("a connection that both of its pods show is one stream to a reader", { skip: tshark }, (t) => {
  const pods = [
    { uid: "uid-web", namespace: "shop", name: "web", node: "a", addresses: ["10.0.0.1"] },
    { uid: "uid-api", namespace: "shop", name: "api", node: "a", addresses: ["10.0.0.2"] },
  ];
  const theirs = flowOf(V4, { direction: "inbound", podUid: "uid-api" });
  const talk = (connection: string, flow: FlowRecord): RecordingLine[] => [
    chunk(connection, "client", 0, Buffer.from("question")),
    closed(connection, { ...flow, bytesSent: 8 }),
  ];
  const file = write([
    { type: "began", pods },
    opened("1", flowOf(V4)),
    opened("2", theirs),
    ...talk("1", flowOf(V4)),
    ...talk("2", theirs),
  ]);
  assert.match(read(t, file, "-q", "-z", "follow,tcp,ascii,0"), /\n8\nquestion\n=/);
  assert.deepEqual([...new Set(read(t, file, "-T", "fields", "-e", "tcp.stream").trim().split("\n"))], ["0"]);
});
