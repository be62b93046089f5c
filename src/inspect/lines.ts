// Lines of JSON to a reader over HTTP: one at a time, so that who takes none holds up nothing but his own answer.
import type { ServerResponse } from "node:http";
import type { Http2ServerResponse } from "node:http2";

export const LINES = { "content-type": "application/x-ndjson", "cache-control": "no-store" } as const;

/** Ends the response; returns early when the reader has gone. */
export async function writeLines(response: ServerResponse | Http2ServerResponse, lines: AsyncIterable<string>): Promise<void> {
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
    if (write(response, `${line}\n`) || gone) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  response.end();
}

// The two kinds have the same method; their declarations differ in what it may be given besides.
const write = (response: ServerResponse | Http2ServerResponse, text: string): boolean =>
  "stream" in response ? response.write(text) : response.write(text);
