// Lets nodes catch up a few at a time. What a node is owed takes memory while it is sent and keeps the process busy: a mesh whose nodes all come
// back at once must not need the memory of all of them, and a change must not wait for all of them.

export type Turns = {
  /** Resolves, in the order of asking, when it is the caller's turn. */
  take(): Promise<Turn>;
};

export type Turn = {
  /** The node answered: it is not what is waited for. */
  progress(): void;
  /** Again: nothing. */
  end(): void;
};

export type TurnLimits = { readonly atOnce: number; readonly silentMilliseconds: number };

/** Enough that one that waits for its node's answer leaves no gap. A hundred thousand resources take 10 MB each until they are sent. */
const AT_ONCE = 8;
/** Who takes longer over one response goes on beside the next, and does not hold up the others. Far more than a busy process needs by itself. */
const SILENT_MILLISECONDS = 10_000;

export function createTurns(
  { atOnce, silentMilliseconds }: TurnLimits = { atOnce: AT_ONCE, silentMilliseconds: SILENT_MILLISECONDS },
): Turns {
  /** As many as there are streams: the listener's bound. */
  const waiting: ((turn: Turn) => void)[] = [];
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
    const wait = (): NodeJS.Timeout => setTimeout(end, silentMilliseconds).unref();
    let timer = wait();
    const progress = (): void => {
      clearTimeout(timer);
      if (!over) timer = wait();
    };
    begin({ progress, end });
  }

  return {
    take: () =>
      new Promise((resolve) => {
        waiting.push(resolve);
        next();
      }),
  };
}
