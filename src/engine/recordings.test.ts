// A recording of the director's side: begun by the engine's call, ended behind its last byte, and never left on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { type Hello, HelloSchema, type RecordedBatch, RecordedBatchSchema, RecordingEnd } from "#contract/gen/engine_pb.ts";
import { isMeshError } from "#mesh/error.ts";
import { createRecordings, type Recordings } from "./recordings.ts";

const hello = create(HelloSchema, { records: true });
const batch = (id: bigint, end: RecordingEnd = RecordingEnd.NONE): RecordedBatch => create(RecordedBatchSchema, { id, end });
const fails = (code: string, text: RegExp) => (error: unknown) => isMeshError(error) && error.code === code && text.test(error.message);

/** An engine that records as it is told, until it is told to stop. */
function engine(recordings: Recordings) {
  const calls: Promise<unknown>[] = [];
  const stops = new Map<bigint, () => void>();
  const say = (message: "record" | "stopRecord", id: bigint): boolean => {
    if (message === "stopRecord") stops.get(id)?.();
    else calls.push(recordings.recorded(record(id)));
    return true;
  };
  async function* record(id: bigint): AsyncGenerator<RecordedBatch> {
    const stopped = new Promise<void>((resolve) => stops.set(id, resolve));
    yield batch(id);
    yield batch(id);
    await stopped;
    yield batch(id, RecordingEnd.STOPPED);
  }
  return { say, calls };
}

test("a stop is the engine's to answer: what was copied before it still comes", async () => {
  const recordings = createRecordings(2000);
  const { say, calls } = engine(recordings);
  const stop = new AbortController();
  const ends: RecordingEnd[] = [];
  for await (const { end } of recordings.read(hello, say, stop.signal)) {
    ends.push(end);
    if (ends.length === 2) stop.abort();
  }
  assert.deepEqual(ends, [RecordingEnd.NONE, RecordingEnd.NONE, RecordingEnd.STOPPED]);
  await Promise.all(calls);
});

test("who leaves ends the engine's call", async () => {
  const recordings = createRecordings(2000);
  const { say, calls } = engine(recordings);
  for await (const _ of recordings.read(hello, say, new AbortController().signal)) break;
  await Promise.all(calls);
});

test("an engine that cannot record, is away or does not begin is told by its code", async () => {
  const recordings = createRecordings(20);
  const { signal } = new AbortController();
  const first = (to: Hello | null, say: () => boolean) => recordings.read(to, say, signal).next();
  await assert.rejects(
    first(create(HelloSchema, { engineVersion: "0.0.1" }), () => assert.fail("it would end the stream")),
    fails("E_RECORDING_REFUSED", /0\.0\.1/),
  );
  await assert.rejects(
    first(null, () => false),
    fails("E_ENGINE_AWAY", /no engine/),
  );
  await assert.rejects(
    first(hello, () => true),
    fails("E_RECORDING_REFUSED", /within 20 ms/),
  );
});

test("a call that nobody asked for is over at once, and one that breaks is an error", async () => {
  const recordings = createRecordings(2000);
  async function* stray(): AsyncGenerator<RecordedBatch> {
    yield batch(99n);
    await new Promise(() => undefined);
  }
  assert.deepEqual(await recordings.recorded(stray()), {});
  async function* breaking(id: bigint): AsyncGenerator<RecordedBatch> {
    yield batch(id);
    throw new Error("the socket is gone");
  }
  const say = (message: string, id: bigint): boolean => {
    if (message === "record") void recordings.recorded(breaking(id));
    return true;
  };
  const read = recordings.read(hello, say, new AbortController().signal);
  await read.next();
  await assert.rejects(read.next(), fails("E_ENGINE_AWAY", /socket is gone/));
});
