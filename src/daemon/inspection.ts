// Answers what people ask of this node through control: questions come down one stream, each answer goes up a call of its own.
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { type AnswerPartSchema, Inspection, type Question as QuestionMessage } from "#contract/gen/control_pb.ts";
import type { ErrorCode } from "#contract/tables.ts";
import type { Answer, TimedLine } from "#inspect/answer.ts";
import { frameOf } from "#inspect/frames.ts";
import { readQuestion } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import { backoff } from "#xds/backoff.ts";

export type InspectionOptions = {
  readonly node: string;
  readonly transport: Transport;
  readonly answer: Answer;
  readonly broken: (error: unknown) => void;
  readonly random?: () => number;
};

/** More at once are refused: each may hold every record that is kept. */
const MOST_ANSWERS = 16;
/** Lines of one part: some 64 KiB. What comes less often goes up line by line. */
const PART_LINES = 64;
/** A stream that lived this long was healthy: the next break reconnects at once. */
const HEALTHY_MS = 5000;

type Part = MessageInitShape<typeof AnswerPartSchema>;

export function inspection({ node, transport, answer, broken, random = Math.random }: InspectionOptions): {
  run(stop: AbortSignal): Promise<void>;
} {
  const client = createClient(Inspection, transport);
  let answers = 0;

  /** Control ends the call when nobody wants the rest; then nobody is to be told. */
  async function reply({ id, question }: QuestionMessage, stop: AbortSignal): Promise<void> {
    const over = new AbortController();
    const signal = AbortSignal.any([stop, over.signal]);
    answers++;
    try {
      await client.answer(answers > MOST_ANSWERS ? busy(id) : parts(id, question, signal), { signal });
    } catch (error) {
      if (!signal.aborted) broken(error);
    } finally {
      answers--;
      over.abort();
    }
  }

  async function* parts(id: bigint, text: string, signal: AbortSignal): AsyncGenerator<Part> {
    yield { id, lines: [] };
    try {
      for await (const lines of inBursts(answer(readQuestion(JSON.parse(text)), signal), PART_LINES))
        yield { id, lines: lines.map(partLine) };
      // The search was ended, not over. Where control itself has ended it nobody hears this.
      if (!signal.aborted) yield { id, complete: true };
    } catch (error) {
      const code: ErrorCode = isMeshError(error) ? error.code : "E_QUESTION";
      yield { id, code, reason: error instanceof Error ? error.message : String(error) };
    }
  }

  async function run(stop: AbortSignal): Promise<void> {
    const wait = backoff(random);
    while (!stop.aborted) {
      const opened = Date.now();
      const ended = new AbortController();
      const signal = AbortSignal.any([stop, ended.signal]);
      try {
        for await (const question of client.questions({ node }, { signal })) void reply(question, signal);
      } catch (error) {
        if (!stop.aborted) broken(error);
      } finally {
        ended.abort();
      }
      if (Date.now() - opened >= HEALTHY_MS) wait.reset();
      await sleep(wait.next(), undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop
    }
  }

  return { run };
}

function partLine({ time, line }: TimedLine) {
  const { json, behind } = frameOf(line);
  return { time: BigInt(Math.floor(time)), json, ...(behind === null ? {} : { behind }) };
}

async function* busy(id: bigint): AsyncGenerator<Part> {
  yield { id, code: "E_QUESTION_BUSY" satisfies ErrorCode, reason: `the node answers ${MOST_ANSWERS} questions already` };
}

/** Lines that are there already go together; nobody waits for one that is not. */
async function* inBursts(lines: AsyncGenerator<TimedLine>, most: number): AsyncGenerator<TimedLine[]> {
  let next = lines.next();
  try {
    for (let first = await next; first.done !== true; first = await next) {
      const burst = [first.value];
      next = lines.next();
      while (burst.length < most) {
        // What goes wrong is told behind the lines that came before.
        const more = await Promise.race([next.catch(() => null), new Promise<null>((resolve) => setImmediate(resolve, null))]);
        if (more === null || more.done === true) break;
        burst.push(more.value);
        next = lines.next();
      }
      yield burst;
    }
  } finally {
    lines.return(undefined).catch(() => undefined); // it ends by its own signal
  }
}
