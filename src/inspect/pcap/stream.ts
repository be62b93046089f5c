// POST /v1/recordings: what connections of some pods carry, as lines of JSON. DELETE of the answer's Location ends it after its last byte.
import { randomUUID } from "node:crypto";
import type { ServerResponse } from "node:http";
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
    try {
      for await (const line of record(stop.signal)) {
        if (!response.headersSent) response.writeHead(201, { "content-type": "application/x-ndjson", location });
        if (response.write(`${JSON.stringify(line)}\n`) || response.closed) continue;
        await new Promise<void>((resolve) => {
          response.once("drain", resolve);
          response.once("close", resolve);
        });
      }
      response.end();
    } finally {
      running.delete(location);
    }
  }

  function stop(path: string): boolean {
    running.get(path)?.abort();
    return running.has(path);
  }

  return { send, stop };
}
