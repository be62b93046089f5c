// Puts questions to the daemons that are attached here and gathers their answers: bounded, as fast as they are read, ended when nobody reads.
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { AnswerPart, Inspection, Question as QuestionMessage } from "#contract/gen/control_pb.ts";
import type { Frame } from "#inspect/frames.ts";
import type { Question } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import { createBell } from "#xds/bell.ts";
import { callerNode } from "./access.ts";

/** A line of an answer as it goes on, with its moment in Unix milliseconds. */
export type Item = Frame & { readonly time: number };

export type Missing = { readonly node: string; readonly reason: string };

export type InspectionServer = {
  readonly service: ServiceImpl<typeof Inspection>;
  /** Nodes that can be asked here. */
  nodes(): readonly string[];
  /** One generator for each of these nodes. What a node cannot tell is added to `missing`. Throws E_QUESTION_BUSY. */
  ask(question: Question, missing: Missing[], stop: AbortSignal): readonly AsyncGenerator<Item>[];
  disconnect(node: string): void;
  close(): void;
};

/** Each holds an answer's lines that nobody has read yet. */
const MOST_QUESTIONS = 32;
/** A daemon that lives begins to answer at once. */
const FIRST_PART_MS = 5_000;
/** Lines of one node's answer that wait for their reader; more wait at the node. */
const WAITING_LINES = 512;
const REASON_CHARACTERS = 512;

type Attached = { readonly asks: QuestionMessage[]; readonly bell: ReturnType<typeof createBell>; end(): void; ended: boolean };

export function createInspection(): InspectionServer {
  const attached = new Map<string, Attached>();
  const inboxes = new Map<string, Inbox>();
  let nextId = 1n;
  let asked = 0;

  async function* questions(_: unknown, context: HandlerContext): AsyncGenerator<QuestionMessage> {
    const node = callerNode(context);
    const bell = createBell();
    const own: Attached = {
      asks: [],
      bell,
      ended: false,
      end: () => {
        own.ended = true;
        bell.ring();
      },
    };
    attached.get(node)?.end(); // a second stream of a node replaces the first
    attached.set(node, own);
    context.signal.addEventListener("abort", own.end);
    try {
      while (!own.ended) {
        yield* own.asks.splice(0);
        await bell.wait();
      }
    } finally {
      context.signal.removeEventListener("abort", own.end);
      if (attached.get(node) === own) attached.delete(node);
    }
  }

  async function answer(parts: AsyncIterable<AnswerPart>, context: HandlerContext) {
    const node = callerNode(context);
    const incoming = parts[Symbol.asyncIterator]();
    let inbox: Inbox | undefined;
    try {
      for (;;) {
        const next = incoming.next();
        const part = await (inbox === undefined ? next : Promise.race([next, inbox.unwanted]));
        if (part === null) throw new ConnectError("nobody wants the rest of it", Code.Canceled);
        if (part.done === true) {
          inbox?.end("its answer broke off");
          return {};
        }
        // Only the node that was asked may answer.
        inbox ??= inboxes.get(keyOf(node, part.value.id));
        if (inbox === undefined) throw new ConnectError("this was not asked, or nobody waits for it any more", Code.Canceled);
        const { lines, code, reason, complete } = part.value;
        await inbox.take(lines.map(({ time, json, behind }) => ({ time: Number(time), json, behind: behind ?? null })));
        if (complete) inbox.end(null);
        else if (code !== "") inbox.end(`${reason.slice(0, REASON_CHARACTERS)} (${code})`);
      }
    } catch (error) {
      inbox?.end("the connection to its daemon ended");
      throw error;
    }
  }

  function ask(question: Question, missing: Missing[], stop: AbortSignal): readonly AsyncGenerator<Item>[] {
    if (asked >= MOST_QUESTIONS) throw meshError("E_QUESTION_BUSY", `${MOST_QUESTIONS} questions are being answered already`);
    const text = JSON.stringify(question);
    const nodes = [...attached];
    if (nodes.length === 0) return [];
    let left = nodes.length;
    asked++;
    return nodes.map(([node, { asks, bell }]) => {
      const id = nextId++;
      const inbox = createInbox(stop);
      inboxes.set(keyOf(node, id), inbox);
      asks.push({ $typeName: "trackbed.control.v1.Question", id, question: text });
      bell.ring();
      const over = (): void => {
        inboxes.delete(keyOf(node, id));
        if (--left === 0) asked--;
      };
      return inbox.read((reason) => missing.push({ node, reason }), over);
    });
  }

  return {
    service: { questions, answer },
    nodes: () => [...attached.keys()],
    ask,
    disconnect: (node) => attached.get(node)?.end(),
    close: () => {
      for (const { end } of attached.values()) end();
    },
  };
}

const keyOf = (node: string, id: bigint): string => `${node} ${id}`;

type Inbox = {
  /** Resolves when there is room for more. */
  take(items: readonly Item[]): Promise<void>;
  /** `fault`: why it is not all that the node knows. */
  end(fault: string | null): void;
  /** Resolves when nobody reads any more. */
  readonly unwanted: Promise<null>;
  read(fault: (reason: string) => void, over: () => void): AsyncGenerator<Item>;
};

function createInbox(stop: AbortSignal): Inbox {
  const waiting: Item[] = [];
  const [filled, emptied] = [createBell(), createBell()];
  const unwanted = Promise.withResolvers<null>();
  const state = { begun: false, ended: false, read: true, fault: null as string | null };
  const end = (fault: string | null): void => {
    if (!state.ended) state.fault = fault;
    state.ended = true;
    filled.ring();
  };

  async function take(items: readonly Item[]): Promise<void> {
    state.begun = true;
    waiting.push(...items);
    filled.ring();
    while (waiting.length > WAITING_LINES && state.read) await emptied.wait();
  }

  async function* read(fault: (reason: string) => void, over: () => void): AsyncGenerator<Item> {
    const silent = setTimeout(() => state.begun || end(`its daemon did not answer within ${FIRST_PART_MS / 1000} s`), FIRST_PART_MS);
    const stopped = (): void => end(null);
    stop.addEventListener("abort", stopped, { once: true });
    try {
      while (!stop.aborted) {
        const item = waiting.shift();
        if (item !== undefined) {
          if (waiting.length === WAITING_LINES) emptied.ring();
          yield item;
        } else if (state.ended) break;
        else await filled.wait();
      }
      if (state.fault !== null) fault(state.fault);
    } finally {
      clearTimeout(silent);
      stop.removeEventListener("abort", stopped);
      state.read = false;
      emptied.ring();
      unwanted.resolve(null);
      over();
    }
  }

  return { take, end, unwanted: unwanted.promise, read };
}
