// Claims about lines with bytes behind them: what was written is read, however it was cut on its way, and what cannot be read is an error.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Frame, frameOf, lineOf, readFrames } from "./frames.ts";
import type { RecordingLine } from "./pcap/recording.ts";
import type { AnswerLine } from "./question.ts";

const chunk = (payload: Uint8Array): RecordingLine => {
  return { type: "chunk", connection: "1", time: "2", from: "client", offset: 3, length: payload.length, payload };
};
const LINES: AnswerLine[] = [
  { type: "recorded", node: "a", line: chunk(Buffer.from('{"a":1}\n\n"behind":5}\n\0\xff', "latin1")) },
  { type: "missing", node: 'x "behind":7}', reason: "ä" },
  { type: "recorded", node: "a", line: chunk(Buffer.alloc(0)) },
  { type: "recorded", node: "b", line: chunk(Buffer.alloc(100_000, "\n")) },
  { type: "answered", nodes: ["a"] },
];

const written = (frames: readonly Frame[]): Buffer =>
  Buffer.concat(frames.flatMap(({ json, behind }) => [Buffer.from(`${json}\n`), ...(behind === null ? [] : [behind])]));

async function read(bytes: Buffer, size: number): Promise<AnswerLine[]> {
  async function* pieces(): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  }
  const lines: AnswerLine[] = [];
  for await (const frame of readFrames(pieces())) lines.push(lineOf<AnswerLine>(frame));
  return lines;
}

test("what was written is read, in pieces of any size, and empty lines say nothing", async () => {
  const bytes = Buffer.concat([Buffer.from("\n"), written(LINES.map(frameOf)), Buffer.from("\n")]);
  for (const size of [1, 2, 7, 1000, bytes.length]) assert.deepEqual(await read(bytes, size), LINES, `${size}`);
});

test("a line of a daemon's own recording is one of control's without the node", async () => {
  const line = chunk(Buffer.from("x"));
  async function* whole(): AsyncGenerator<Buffer> {
    yield written([frameOf(line)]);
  }
  for await (const frame of readFrames(whole())) assert.deepEqual(lineOf<RecordingLine>(frame), line);
});

test("an answer that breaks off, a piece without its bytes, and a line without end are errors", async () => {
  const bytes = written(LINES.map(frameOf));
  await assert.rejects(read(bytes.subarray(0, bytes.length - 3), 1000), /broke off/);
  await assert.rejects(read(bytes.subarray(0, 120), 1000), /broke off/);
  const { payload: _, ...bare } = chunk(Buffer.alloc(1)) as Extract<RecordingLine, { type: "chunk" }>;
  await assert.rejects(read(Buffer.from(`${JSON.stringify({ ...bare, payload: "eA==" })}\n`), 1000), /without its bytes/);
  await assert.rejects(read(Buffer.alloc(5 << 20, "x"), 65_536), /a line of more than/);
  await assert.rejects(read(Buffer.from('{"type":"chunk","behind":999999999}\n'), 1000), /bytes behind one line/);
});
