// Claims about what objects want to know: asked when it is due, by the oldest first where there are too many, and nothing of a turn is kept.
import assert from "node:assert/strict";
import { test } from "node:test";
import { entry } from "#compile/specimen.ts";
import type { ServiceEntry } from "#mesh/objects.ts";
import { meta } from "#mesh/specimen.ts";
import type { Change, Source } from "#source/source.ts";
import { answering, type Questions } from "./answering.ts";

type Answer = { readonly due: number; readonly text: string };

/** Each entry wants to know its own name. */
function questions(more: Partial<Questions<ServiceEntry, Answer>>): Questions<ServiceEntry, Answer> {
  return {
    kind: "ServiceEntry",
    of: (one) => [one.metadata.name],
    ask: async (question) => ({ due: Date.now(), text: question }),
    said: (answer) => answer?.text,
    fill: (one, answers) => {
      const answer = answers(one.metadata.name);
      const text = answer === "beyond" ? "beyond" : (answer?.text ?? "nothing");
      return { ...one, resolved: { answer: [text] } };
    },
    bounds: { atOnce: 1, most: 8, firstMilliseconds: 1_000 },
    ...more,
  };
}

const first = (put: readonly ServiceEntry[]): Change => ({ reset: true, put, remove: [], faults: [], places: new Map() });
const answersOf = ({ put }: Change) => put.map((one) => (one.kind === "ServiceEntry" ? one.resolved["answer"]?.[0] : null));

/** One batch, and then nothing; counts what is hung on the promise of the next. */
function silent(change: Change): { readonly source: Source; readonly hung: () => number } {
  let reactions = 0;
  const never = new Promise<IteratorResult<Change>>(() => undefined);
  const open = Object.assign(never, {
    // biome-ignore lint/suspicious/noThenProperty: what counts who waits has to be a promise
    then: (...reaction: Parameters<typeof never.then>) => {
      reactions++;
      return Promise.prototype.then.call(never, ...reaction);
    },
  }) as typeof never;
  const steps = [Promise.resolve({ done: false as const, value: change })];
  const source: Source = () => ({ [Symbol.asyncIterator]: () => ({ next: () => steps.shift() ?? open }) });
  return { source, hung: () => reactions };
}

test("many turns without a change keep nothing", async () => {
  let asked = 0;
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  const ask = async (question: string) => {
    if (++asked < 1_000) return { due: Date.now(), text: question };
    resolve();
    return { due: Number.POSITIVE_INFINITY, text: question };
  };
  const { source, hung } = silent(first([entry("shop", "db")]));
  const changes = answering(source, questions({ ask }))(new AbortController().signal)[Symbol.asyncIterator]();
  assert.deepEqual(answersOf((await changes.next()).value), ["db"]);
  void changes.next(); // no other answer comes
  await enough;
  assert.equal(hung(), 1, "one reaction waits for the next change, however often was asked meanwhile");
});

test("where there are too many, those of the oldest objects are asked, and a new one takes nobody's place", async () => {
  const made = (name: string, creationTimestamp: string): ServiceEntry => ({
    ...entry("shop", name),
    metadata: { ...meta("shop", name), creationTimestamp },
  });
  const put = [made("a-new", "2026-03-01T00:00:00Z"), made("old", "2026-01-01T00:00:00Z"), made("older", "2025-01-01T00:00:00Z")];
  const { source } = silent(first(put));
  const bounds = { atOnce: 8, most: 2, firstMilliseconds: 1_000 };
  const ask = async (question: string) => ({ due: Number.POSITIVE_INFINITY, text: question });
  const changes = answering(source, questions({ ask, bounds }))(new AbortController().signal)[Symbol.asyncIterator]();
  assert.deepEqual(answersOf((await changes.next()).value), ["beyond", "old", "older"]);
});

test("what the source throws is thrown, and nothing is asked any more", async () => {
  const failing: Source = async function* () {
    yield first([]);
    throw new Error("gone");
  };
  const changes = answering(failing, questions({}))(new AbortController().signal)[Symbol.asyncIterator]();
  await changes.next();
  await assert.rejects(async () => changes.next(), /gone/);
});
