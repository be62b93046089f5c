// A namespace that an operator took out of the mesh for a while comes back by itself: when its time is over it is told as if it had changed.
import { bypassUntil } from "#mesh/enrolment.ts";
import { keyOf, type Namespace, type ObjectKey } from "#mesh/objects.ts";
import type { Change, Source } from "#source/source.ts";

/** setTimeout takes no more than 2^31 ms; a bypass of months is looked at again after this. */
const LONGEST_MILLISECONDS = 24 * 3_600_000;

/** The same changes, and one more for each bypass that ends. */
export function endingBypasses(source: Source, now: () => number = Date.now): Source {
  return (stop) => follow(source, now, stop);
}

async function* follow(source: Source, now: () => number, stop: AbortSignal): AsyncGenerator<Change> {
  const bypassed = new Map<ObjectKey, Namespace>();
  let latest: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };
  const changes = source(stop)[Symbol.asyncIterator]();
  try {
    let next = changes.next();
    for (;;) {
      const end = untilNextEnd(bypassed.values(), now());
      const came = await Promise.race([next, end.promise]).finally(end.cancel);
      if (came === null) {
        const over = [...bypassed.values()].filter((one) => (bypassUntil(one) ?? 0) <= now());
        for (const one of over) bypassed.delete(keyOf(one));
        if (over.length > 0) yield { reset: false, put: over, remove: [], ...latest };
        continue;
      }
      if (came.done === true) return;
      next = changes.next();
      latest = { faults: came.value.faults, places: came.value.places };
      note(bypassed, came.value, now());
      yield came.value;
    }
  } finally {
    await changes.return?.();
  }
}

function note(bypassed: Map<ObjectKey, Namespace>, { reset, put, remove }: Change, now: number): void {
  if (reset) bypassed.clear();
  for (const key of remove) bypassed.delete(key);
  for (const object of put) {
    if (object.kind !== "Namespace") continue;
    if ((bypassUntil(object) ?? 0) > now) bypassed.set(keyOf(object), object);
    else bypassed.delete(keyOf(object));
  }
}

/** Resolves with null when the first bypass ends; never when there is none. */
function untilNextEnd(bypassed: Iterable<Namespace>, now: number): { readonly promise: Promise<null>; cancel(): void } {
  const first = Math.min(...[...bypassed].map((one) => bypassUntil(one) ?? Number.POSITIVE_INFINITY));
  const { promise, resolve } = Promise.withResolvers<null>();
  const timer = Number.isFinite(first)
    ? setTimeout(() => resolve(null), Math.min(Math.max(0, first - now), LONGEST_MILLISECONDS))
    : undefined;
  return { promise, cancel: () => clearTimeout(timer) };
}
