// A stage of a source: what objects want to know of others (addresses of a name, keys of an issuer) is asked again when it is due, and told as if they
// had changed.
import { isDeepStrictEqual } from "node:util";
import { compareAge } from "#mesh/age.ts";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import type { Change, Source } from "#source/source.ts";

/** `due`: when it is asked for again, as of Date.now(). */
export type Answered = { readonly due: number };

/** What objects of one kind want to know. */
export type Questions<O extends MeshObject, A extends Answered> = {
  readonly kind: O["kind"];
  of(object: O): readonly string[];
  /** Never rejects: that nobody answers is an answer too. `askers`: whose question it is. */
  ask(question: string, before: A | undefined, askers: readonly O[]): Promise<A>;
  /** What of an answer the objects are filled with: they are told again when it is another. */
  said(answer: A | undefined): unknown;
  /** `answers` knows what was answered; "beyond" is said of what is not asked, for there are too many. */
  fill(object: O, answers: (question: string) => A | "beyond" | undefined): O;
  readonly bounds: Bounds;
};

export type Bounds = {
  /** Asked at the same time. */
  readonly atOnce: number;
  /** All in all: those of the oldest objects. */
  readonly most: number;
  /** A first batch waits this long, so that a control that starts again tells nobody of less than there is. */
  readonly firstMilliseconds: number;
};

/** The same changes with the answers filled in, and one more whenever they are others. */
export function answering<O extends MeshObject, A extends Answered>(source: Source, questions: Questions<O, A>): Source {
  return (stop) => follow(source, questions, stop);
}

async function* follow<O extends MeshObject, A extends Answered>(
  source: Source,
  questions: Questions<O, A>,
  stop: AbortSignal,
): AsyncGenerator<Change> {
  const { atOnce, most, firstMilliseconds } = questions.bounds;
  const askers = new Map<ObjectKey, O>();
  const answers = new Map<string, A>();
  let wanted: ReadonlySet<string> = new Set();
  let latest: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };

  const isAsker = (object: MeshObject): object is O => object.kind === questions.kind;
  const dueAt = (question: string): number => answers.get(question)?.due ?? 0;
  const due = (now: number): string[] => [...wanted].filter((question) => dueAt(question) <= now).slice(0, atOnce);

  function note({ reset, put, remove }: Change): void {
    if (reset) askers.clear();
    for (const key of remove) askers.delete(key);
    for (const object of put) if (isAsker(object)) askers.set(keyOf(object), object);
    wanted = new Set([...new Set([...askers.values()].sort(compareAge).flatMap((one) => questions.of(one)))].slice(0, most));
    for (const question of answers.keys()) if (!wanted.has(question)) answers.delete(question);
  }

  const filled = (object: MeshObject): MeshObject => (isAsker(object) ? fill(object) : object);
  const fill = (one: O): O => questions.fill(one, (question) => (wanted.has(question) ? answers.get(question) : "beyond"));

  /** Resolves with those that have another answer now. */
  async function ask(asked: readonly string[]): Promise<ReadonlySet<string>> {
    const others = new Set<string>();
    await Promise.all(
      asked.map(async (question) => {
        const before = answers.get(question);
        const whose = [...askers.values()].filter((one) => questions.of(one).includes(question));
        const answer = await questions.ask(question, before, whose);
        // Nobody may want to know it any more.
        if (wanted.has(question)) answers.set(question, answer);
        if (!isDeepStrictEqual(questions.said(before), questions.said(answer))) others.add(question);
      }),
    );
    return others;
  }

  const changes = source(stop)[Symbol.asyncIterator]();
  const events = mailbox<Event>();
  const listen = (): void => {
    changes.next().then(
      (came) => events.put({ kind: "came", came }),
      (error: unknown) => events.put({ kind: "broke", error }),
    );
  };
  let asking = false;
  try {
    listen();
    for (;;) {
      const asked = asking ? [] : due(Date.now());
      if (asked.length > 0) {
        asking = true;
        ask(asked).then(
          (others) => events.put({ kind: "answered", others }),
          (error: unknown) => events.put({ kind: "broke", error }),
        );
      }
      const event = await events.take(asking ? Number.POSITIVE_INFINITY : Math.min(...[...wanted].map(dueAt)));
      if (event === null) continue;
      if (event.kind === "broke") throw event.error;
      if (event.kind === "answered") {
        asking = false;
        const put = [...askers.values()].filter((one) => questions.of(one).some((question) => event.others.has(question))).map(fill);
        if (put.length > 0) yield { reset: false, put, remove: [], ...latest };
        continue;
      }
      if (event.came.done === true) return;
      listen();
      const change = event.came.value;
      latest = { faults: change.faults, places: change.places };
      note(change);
      if (change.reset) await firstAnswers();
      yield { ...change, put: change.put.map(filled) };
    }
  } finally {
    await changes.return?.();
  }

  async function firstAnswers(): Promise<void> {
    const end = Date.now() + firstMilliseconds;
    for (let asked = due(Date.now()); asked.length > 0 && Date.now() < end; asked = due(Date.now())) {
      const late = until(end);
      await Promise.race([ask(asked), late.promise]).finally(late.cancel);
    }
  }
}

type Event =
  | { readonly kind: "came"; readonly came: IteratorResult<Change> }
  | { readonly kind: "answered"; readonly others: ReadonlySet<string> }
  | { readonly kind: "broke"; readonly error: unknown };

/** What happens is put in; whoever waits takes it out. A race with a promise that is long open would keep something of each turn until it is over. */
function mailbox<T>() {
  const waiting: T[] = [];
  let bell: (() => void) | null = null;
  return {
    put(one: T): void {
      waiting.push(one);
      bell?.();
    },
    /** Null at that time; never at infinity. */
    async take(time: number): Promise<T | null> {
      if (waiting.length === 0) {
        const late = until(time);
        bell = late.ring;
        await late.promise.finally(late.cancel);
        bell = null;
      }
      return waiting.shift() ?? null;
    },
  };
}

/** setTimeout takes no more than 2^31 ms. */
const LONGEST_MILLISECONDS = 2 ** 31 - 1;

/** Resolves at a time, or earlier when it is rung. */
function until(time: number): { readonly promise: Promise<void>; ring(): void; cancel(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const wait = Math.min(Math.max(0, time - Date.now()), LONGEST_MILLISECONDS);
  const timer = Number.isFinite(time) ? setTimeout(resolve, wait) : undefined;
  return { promise, ring: resolve, cancel: () => clearTimeout(timer) };
}
