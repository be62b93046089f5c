// The recordings that a director asked its engine for: each is one call of the engine's, and over when either side lets go of it.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type Hello, type RecordedBatch, RecordingEnd, type RecordSchema } from "#contract/gen/engine_pb.ts";
import { type MeshError, meshError } from "#mesh/error.ts";

/** What to record; the director numbers it. */
export type RecordOrder = Omit<MessageInitShape<typeof RecordSchema>, "id" | "$typeName" | "$unknown">;

/** An engine of a version that cannot record ends the stream that it was asked on; one that can answers within milliseconds. */
const BEGIN_MS = 5000;

export type Recordings = {
  /**
   * Batches of a recording, from its beginning to its end. `stop` ends it after what was copied until then; whoever leaves the loop ends it
   * as well, and misses that.
   */
  read(hello: Hello | null, say: Say, stop: AbortSignal): AsyncGenerator<RecordedBatch>;
  /** The method of the service. */
  recorded(batches: AsyncIterable<RecordedBatch>): Promise<Record<string, never>>;
};

/** Not true when no engine is there. */
type Say = (message: "record" | "stopRecord", id: bigint) => boolean | undefined;
type Waiting = { readonly begin: (call: Call) => void };
type Call = { readonly batches: AsyncIterator<RecordedBatch>; readonly first: RecordedBatch; over(): void };

export function createRecordings(beginMs = BEGIN_MS): Recordings {
  const waiting = new Map<bigint, Waiting>();
  let lastId = 0n;

  async function* read(hello: Hello | null, say: Say, stop: AbortSignal): AsyncGenerator<RecordedBatch> {
    if (hello?.records === false) throw refused(`an engine of version ${hello.engineVersion} cannot record`);
    const id = ++lastId;
    const call = await begin(id, say, stop);
    let late: NodeJS.Timeout | undefined;
    const end = (): void => {
      say("stopRecord", id);
      late = setTimeout(() => call.over(), beginMs);
    };
    stop.addEventListener("abort", end, { once: true });
    try {
      if (stop.aborted) end();
      let batch: RecordedBatch | undefined = call.first;
      while (batch !== undefined) {
        yield batch;
        if (batch.end !== RecordingEnd.NONE) return;
        batch = await nextOf(call.batches);
      }
    } finally {
      clearTimeout(late);
      stop.removeEventListener("abort", end);
      call.over();
    }
  }

  async function begin(id: bigint, say: Say, stop: AbortSignal): Promise<Call> {
    const { promise, resolve, reject } = Promise.withResolvers<Call>();
    const timer = setTimeout(() => reject(refused(`the engine did not begin to record within ${beginMs} ms`)), beginMs);
    const aborted = (): void => reject(refused("nobody waits for the recording any more"));
    stop.addEventListener("abort", aborted);
    waiting.set(id, { begin: resolve });
    try {
      if (say("record", id) !== true) throw meshError("E_ENGINE_AWAY", "no engine is connected that could record");
      return await promise;
    } finally {
      clearTimeout(timer);
      stop.removeEventListener("abort", aborted);
      waiting.delete(id);
    }
  }

  async function recorded(batches: AsyncIterable<RecordedBatch>): Promise<Record<string, never>> {
    const incoming = batches[Symbol.asyncIterator]();
    const { done, value: first } = await incoming.next();
    if (done === true) throw new ConnectError("a recording must name itself", Code.InvalidArgument);
    const one = waiting.get(first.id);
    if (one === undefined) return {}; // whoever asked for it has gone: its end is the answer
    const { promise, resolve } = Promise.withResolvers<void>();
    one.begin({ batches: incoming, first, over: resolve });
    await promise;
    return {};
  }

  return { read, recorded };
}

/** Undefined at the end. A call that broke is an error. */
async function nextOf(batches: AsyncIterator<RecordedBatch>): Promise<RecordedBatch | undefined> {
  try {
    const next = await batches.next();
    return next.done === true ? undefined : next.value;
  } catch (cause) {
    throw meshError("E_ENGINE_AWAY", `the engine went away while it recorded: ${ConnectError.from(cause).rawMessage}`, cause);
  }
}

const refused = (text: string): MeshError => meshError("E_RECORDING_REFUSED", text);
