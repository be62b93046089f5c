// Keeps what strangers can provoke from filling the log: a few lines a minute, and how many were left out.
export type Quiet = (write: (suppressed: number) => void) => void;

const LINES_PER_MINUTE = 10;

export function createQuiet(now: () => number = () => performance.now()): Quiet {
  let minute = Number.NEGATIVE_INFINITY;
  let written = 0;
  let suppressed = 0;
  return (write) => {
    if (now() - minute >= 60_000) {
      minute = now();
      written = 0;
    }
    if (++written > LINES_PER_MINUTE) {
      suppressed++;
      return;
    }
    write(suppressed);
    suppressed = 0;
  };
}
