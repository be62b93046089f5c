// Lets nodes catch up a few at a time. What a node is owed takes memory while it is sent and keeps the process busy: a mesh whose nodes all come
// back at once must not need the memory of all of them, and a change must not wait for all of them.

export type Turns = {
  /** Resolves, in the order of asking, when it is the caller's turn, with what ends it. */
  take(): Promise<EndTurn>;
};
/** Again: nothing. */
export type EndTurn = () => void;

export type TurnLimits = { readonly atOnce: number; readonly milliseconds: number };

/** Enough that one that waits for its node's answer leaves no gap. A hundred thousand resources take 10 MB each until they are sent. */
const AT_ONCE = 8;
/** Three times what a hundred thousand resources take over a gigabit line. Who needs longer goes on, and does not hold up the others. */
const TURN_MILLISECONDS = 2_000;

export function createTurns({ atOnce, milliseconds }: TurnLimits = { atOnce: AT_ONCE, milliseconds: TURN_MILLISECONDS }): Turns {
  /** As many as there are streams: the listener's bound. */
  const waiting: ((end: EndTurn) => void)[] = [];
  let taken = 0;

  function next(): void {
    if (taken >= atOnce) return;
    const begin = waiting.shift();
    if (begin === undefined) return;
    taken++;
    let over = false;
    const end = (): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      taken--;
      next();
    };
    const timer = setTimeout(end, milliseconds);
    timer.unref();
    begin(end);
  }

  return {
    take: () =>
      new Promise((resolve) => {
        waiting.push(resolve);
        next();
      }),
  };
}
