// GET /v1/flows and GET /v1/ask of a local socket: flow records, or the answer to any question, as lines of JSON.
import type { ServerResponse } from "node:http";
import type { Answer, TimedLine } from "./answer.ts";
import type { Flows } from "./flows.ts";
import { type Frame, frameOf } from "./frames.ts";
import { LINES, writeLines } from "./lines.ts";
import { type Question, readQuestion } from "./question.ts";

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
  response.writeHead(200, LINES);
  response.flushHeaders();
  await writeLines(response, texts(read({ since: from, follow: follow === "true", stop: stop.signal })));
  return null;
}

async function* texts(lines: AsyncIterable<unknown>): AsyncGenerator<string> {
  for await (const line of lines) yield JSON.stringify(line);
}

/** GET /v1/ask: a question of question.ts as JSON, answered by `answer`. What is wrong with it, null when it was answered. */
export async function streamAnswer(url: URL, response: ServerResponse, answer: Answer): Promise<string | null> {
  let question: Question;
  try {
    question = readQuestion(JSON.parse(url.searchParams.get("question") ?? ""));
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  const stop = new AbortController();
  response.on("close", () => stop.abort());
  response.writeHead(200, LINES);
  response.flushHeaders();
  await writeLines(response, linesOf(answer(question, stop.signal)));
  return null;
}

async function* linesOf(lines: AsyncIterable<TimedLine>): AsyncGenerator<Frame> {
  for await (const { line } of lines) yield frameOf(line);
}
