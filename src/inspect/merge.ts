// One stream of lines out of many: in the order of time where all have an end, as they come where they go on.
export type Timed = { readonly time: number };

/** Ends with the last of them, or at once when the reader does; a source that throws ends all. */
export async function* merge<T extends Timed>(sources: readonly AsyncGenerator<T>[], ordered: boolean): AsyncGenerator<T> {
  type Head = { readonly source: AsyncGenerator<T>; readonly result: IteratorResult<T> };
  const next = async (source: AsyncGenerator<T>): Promise<Head> => ({ source, result: await source.next() });
  const waiting = new Map(sources.map((source) => [source, next(source)]));
  /** Of ordered sources: each one's next line. */
  const heads: Head[] = [];
  try {
    while (waiting.size > 0 || heads.length > 0) {
      if (waiting.size > 0) {
        const head = await Promise.race(waiting.values());
        waiting.delete(head.source);
        if (head.result.done === true) continue;
        if (ordered) {
          heads.push(head);
          if (waiting.size > 0) continue;
        } else {
          waiting.set(head.source, next(head.source));
          yield head.result.value;
          continue;
        }
      }
      const first = heads.reduce((a, b) => ((b.result.value as T).time < (a.result.value as T).time ? b : a));
      heads.splice(heads.indexOf(first), 1);
      yield first.result.value as T;
      waiting.set(first.source, next(first.source));
    }
  } finally {
    // Not awaited: a source that waits for news ends by its own signal.
    for (const source of sources) source.return(undefined).catch(() => undefined);
  }
}
