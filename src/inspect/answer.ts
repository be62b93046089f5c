// Answers a question from what one place knows: a node's daemon of its node, a control of the waypoints that report to it.
import { parseFilter } from "./filter.ts";
import { type FlowLine, type FlowRecord, momentOf } from "./flow.ts";
import type { Flows } from "./flows.ts";
import { flowFields } from "./ledger/fields.ts";
import type { Ledger } from "./ledger/ledger.ts";
import type { RecordingLine, RecordingQuestion } from "./pcap/recording.ts";
import type { AboutRecording, AnswerLine, FlowsQuestion, FramesQuestion, Question } from "./question.ts";

/** A line with the moment that it is about (Unix milliseconds), by which answers are merged. */
export type TimedLine = { readonly time: number; readonly line: AnswerLine };

/** Ends when everything is told, or `stop` is aborted. */
export type Answer = (question: Question, stop: AbortSignal) => AsyncGenerator<TimedLine>;

/** Copies what connections of pods carry, of those that are here. */
export type Record = (question: RecordingQuestion, stop: AbortSignal) => AsyncGenerator<RecordingLine>;

/** What is on the wire of the pods that are here. */
export type CountFrames = (question: FramesQuestion, stop: AbortSignal) => AsyncGenerator<AnswerLine>;

export type Knowledge = {
  /** Without: there are no pods here. */
  readonly frames?: CountFrames;
  /** Null: nothing can be recorded here. */ readonly record: Record | null;
  readonly flows: Pick<Flows, "read"> /** Null: none is kept. */;
  readonly ledger: Pick<Ledger, "answer"> | null;
};

/** `node`: who answers, as people name it. */
export function answering(node: string, { flows, ledger, record, frames }: Knowledge): Answer {
  return (question, stop) => {
    if (question.about === "flows") return tellFlows(node, flows, question, stop);
    if (question.about === "recording") return record === null ? tellEdges([]) : tellRecording(node, record, question, stop);
    if (question.about === "frames") return frames === undefined ? tellEdges([]) : untimed(frames(question, stop));
    return tellEdges(ledger === null ? [] : ledger.answer(question));
  };
}

async function* tellRecording(
  node: string,
  record: Record,
  { about: _, ...question }: AboutRecording,
  stop: AbortSignal,
): AsyncGenerator<TimedLine> {
  for await (const line of record(question, stop)) yield { time: 0, line: { type: "recorded", node, line } };
}

async function* untimed(lines: AsyncGenerator<AnswerLine>): AsyncGenerator<TimedLine> {
  for await (const line of lines) yield { time: 0, line };
}

async function* tellEdges(lines: readonly AnswerLine[] | Promise<readonly AnswerLine[]>): AsyncGenerator<TimedLine> {
  for (const line of await lines) yield { time: timeOf(line), line };
}

async function* tellFlows(node: string, flows: Pick<Flows, "read">, question: FlowsQuestion, stop: AbortSignal): AsyncGenerator<TimedLine> {
  const { since, until, follow, limit } = question;
  const isWanted = wantedBy(question);
  const found: TimedLine[] = [];
  let told = 0;
  for await (const line of flows.read({ since: since ?? 0, follow, stop })) {
    const time = timeOf(line);
    if (!isWanted(line) || (until !== null && time >= until)) continue;
    const timed = { time, line: { ...line, node } };
    if (follow) {
      if (told++ === limit) {
        yield { time, line: { type: "cut", limit } };
        return;
      }
      yield timed;
    } else found.push(timed);
  }
  found.sort((a, b) => a.time - b.time);
  // Whoever asks for a few wants the last of them.
  if (found.length > limit) yield { time: 0, line: { type: "cut", limit } };
  yield* found.slice(-limit);
}

/** What is missing, or could not be read, concerns everybody; an event names a pod and is for those who may see all. */
function wantedBy({ filter, namespaces }: FlowsQuestion): (line: FlowLine) => boolean {
  const matches = parseFilter(filter, flowFields);
  return (line) => {
    if (line.type !== "flow") return namespaces === null || line.type !== "event";
    return (namespaces === null || touches(line.flow, namespaces)) && matches(line.flow);
  };
}

const touches = ({ source, destination }: FlowRecord, namespaces: readonly string[]): boolean =>
  [source.namespace, destination.namespace].some((namespace) => namespace !== null && namespaces.includes(namespace));

/** What says nothing of time comes first. */
export function timeOf(line: AnswerLine): number {
  if (line.type === "flow") return momentOf(line.flow);
  if (line.type === "event") return Date.parse(line.event.time);
  return line.type === "edge" || line.type === "group" ? Date.parse(line.time) : 0;
}
