// Lines of JSON to a reader over HTTP: one at a time, so that who takes none holds up nothing but his own answer.
import type { ServerResponse } from "node:http";
import type { Http2ServerResponse } from "node:http2";
import type { Frame } from "./frames.ts";

export const LINES = { "content-type": "application/x-ndjson", "cache-control": "no-store" } as const;

/** Ends the response; returns early when the reader has gone. */
export async function writeLines(response: ServerResponse | Http2ServerResponse, lines: AsyncIterable<string | Frame>): Promise<void> {
  let gone = false;
  let wake: () => void = () => undefined;
  // One listener of each for the whole answer: waits come by the thousand.
  response.on("drain", () => wake());
  response.on("close", () => {
    gone = true;
    wake();
  });
  for await (const line of lines) {
    if (gone) return;
    if ((typeof line === "string" ? write(response, `${line}\n`) : writeFrame(response, line)) || gone) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  response.end();
}

function writeFrame(response: ServerResponse | Http2ServerResponse, { json, behind }: Frame): boolean {
  if (behind === null) return write(response, `${json}\n`);
  // One piece on the wire, not three.
  if (!("stream" in response)) response.cork();
  write(response, `${json}\n`);
  const hasRoom = write(response, behind);
  if (!("stream" in response)) response.uncork();
  return hasRoom;
}

// The two kinds have the same method; their declarations differ in what it may be given besides.
const write = (response: ServerResponse | Http2ServerResponse, text: string | Uint8Array): boolean =>
  "stream" in response ? response.write(text) : response.write(text);
