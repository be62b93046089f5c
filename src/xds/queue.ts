// Messages waiting for a gRPC stream to take them, in order; ends the stream's request side when it is told to.
import { meshError } from "#mesh/error.ts";

export type Queue<T> = AsyncIterable<T> & { push(item: T): void; end(): void };

/** A stream holds at most its first requests and one answer per response: more means that nobody reads. */
const QUEUE_MESSAGES = 1024;

export function createQueue<T>(): Queue<T> {
  const items: T[] = [];
  let ended = false;
  let wake: () => void = () => undefined;

  async function* drain(): AsyncGenerator<T> {
    for (;;) {
      const item = items.shift();
      if (item !== undefined) yield item;
      else if (ended) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }

  return {
    push: (item) => {
      if (items.length >= QUEUE_MESSAGES) throw meshError("E_CONTROL_AWAY", `${QUEUE_MESSAGES} messages wait and control takes none`);
      items.push(item);
      wake();
    },
    end: () => {
      ended = true;
      wake();
    },
    [Symbol.asyncIterator]: drain,
  };
}
