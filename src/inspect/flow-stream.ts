// GET /v1/flows: flow records as lines of JSON, those that are kept and, with `follow`, those to come.
import type { ServerResponse } from "node:http";
import type { Flows } from "./flows.ts";

/**
 * One line at a time: a reader that takes none holds up nothing but himself, and is told how many records he missed. Returns what is wrong with
 * the question, null when it was answered.
 */
export async function streamFlows(url: URL, response: ServerResponse, read: Flows["read"]): Promise<string | null> {
  const since = url.searchParams.get("since");
  const from = since === null ? 0 : Date.parse(since);
  const follow = url.searchParams.get("follow");
  if (Number.isNaN(from)) return `since=${since} is not a time such as 2026-01-31T12:00:00Z`;
  if (follow !== null && follow !== "true" && follow !== "false") return `follow=${follow} must be true or false`;
  const stop = new AbortController();
  response.on("close", () => stop.abort());
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  response.flushHeaders();
  for await (const line of read({ since: from, follow: follow === "true", stop: stop.signal })) {
    if (response.write(`${JSON.stringify(line)}\n`) || stop.signal.aborted) continue;
    await new Promise<void>((resolve) => {
      response.once("drain", resolve);
      response.once("close", resolve);
    });
  }
  response.end();
  return null;
}
