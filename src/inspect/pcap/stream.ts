// POST /v1/recordings: what connections of some pods carry, as lines of JSON with bytes behind them. DELETE of the answer's Location ends it after its last byte.
import { randomUUID } from "node:crypto";
import type { ServerResponse } from "node:http";
import { type Frame, frameOf } from "../frames.ts";
import { LINES, writeLines } from "../lines.ts";
import type { RecordingLine } from "./recording.ts";

export const RECORDINGS = "/v1/recordings";

export type RecordingStreams = {
  /**
   * One line at a time. A reader that takes none holds up the recording alone: what its engine cannot send is lost and told. Throws what the
   * recording throws before its first line; what happens later ends the answer in its middle, without a line `ended`.
   */
  send(response: ServerResponse, record: (stop: AbortSignal) => AsyncGenerator<RecordingLine>): Promise<void>;
  /** False when there is none at this path. */
  stop(path: string): boolean;
};

export function createRecordingStreams(): RecordingStreams {
  const running = new Map<string, AbortController>();

  async function send(response: ServerResponse, record: (stop: AbortSignal) => AsyncGenerator<RecordingLine>): Promise<void> {
    const [location, stop] = [`${RECORDINGS}/${randomUUID()}`, new AbortController()];
    running.set(location, stop);
    response.on("close", () => stop.abort());
    const lines = record(stop.signal);
    try {
      const first = await lines.next();
      response.writeHead(201, { ...LINES, location });
      await writeLines(response, frames(first, lines));
    } finally {
      await lines.return(undefined); // also of a reader who left before the second line
      running.delete(location);
    }
  }

  function stop(path: string): boolean {
    running.get(path)?.abort();
    return running.has(path);
  }

  return { send, stop };
}

async function* frames(first: IteratorResult<RecordingLine>, rest: AsyncGenerator<RecordingLine>): AsyncGenerator<Frame> {
  if (first.done === true) return;
  yield frameOf(first.value);
  for await (const line of rest) yield frameOf(line);
}
