// POST /v1/recordings: what connections of some pods carry, as lines of JSON until a limit, or until the reader goes away.
import type { ServerResponse } from "node:http";
import type { RecordingLine } from "./recording.ts";

/**
 * One line at a time. A reader that takes none holds up the recording alone: what its engine cannot send is lost and told. Throws what the
 * recording throws before its first line; what happens later ends the answer in its middle, without a line `ended`.
 */
export async function streamRecording(
  response: ServerResponse,
  record: (stop: AbortSignal) => AsyncGenerator<RecordingLine>,
): Promise<void> {
  const stop = new AbortController();
  response.on("close", () => stop.abort());
  for await (const line of record(stop.signal)) {
    if (!response.headersSent) response.writeHead(200, { "content-type": "application/x-ndjson" });
    if (response.write(`${JSON.stringify(line)}\n`) || stop.signal.aborted) continue;
    await new Promise<void>((resolve) => {
      response.once("drain", resolve);
      response.once("close", resolve);
    });
  }
  response.end();
}
