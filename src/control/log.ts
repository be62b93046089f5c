// Control's log: JSON lines on stdout that nobody ever waits for.
import { destination, type Logger, pino } from "pino";

export type Log = Logger;

/** About 10,000 lines: a reader of stdout that stands still costs this much memory, and then lines. */
const BUFFER_BYTES = 4 * 2 ** 20;

/** `onDrop` hears of lines that were dropped because stdout is blocked. */
export function createLog(onDrop: () => void): { log: Log; flush(): void } {
  const out = destination({ fd: 1, sync: false, maxLength: BUFFER_BYTES });
  out.on("drop", onDrop);
  out.on("error", onDrop); // a closed stdout must not end control
  return {
    log: pino(
      { base: { process: "control" }, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (level) => ({ level }) } },
      out,
    ),
    flush: () => out.flushSync(),
  };
}
