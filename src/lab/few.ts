// Many small steps, a few at a time: all at once, hundreds of pods would wait for the same two CPUs until each one's deadline is over.

/** Enough to keep the CPUs busy while some wait for the kernel. */
const AT_ONCE = 16;

export async function fewAtOnce<T>(items: readonly T[], act: (item: T) => Promise<unknown>): Promise<void> {
  const rest = items.values(); // one iterator, so that whoever is free takes the next
  const workers = Array.from({ length: Math.min(AT_ONCE, items.length) }, async () => {
    for (const item of rest) await act(item);
  });
  await Promise.all(workers);
}
