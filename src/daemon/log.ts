// The daemon's log: JSON lines on stdout that nobody ever waits for.
import { destination, type Logger, pino } from "pino";

/** About 10,000 lines: a reader of stdout that stands still costs this much memory, and then lines. */
const BUFFER_BYTES = 4 * 2 ** 20;

export function createLog(node: string, level: string): { readonly log: Logger; flush(): void } {
  const out = destination({ fd: 1, sync: false, maxLength: BUFFER_BYTES });
  let dropped = 0;
  out.on("drop", () => dropped++);
  out.on("error", () => dropped++); // a closed stdout must not end the daemon
  const options = {
    level,
    base: { process: "daemon", node },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (name: string) => ({ level: name }) },
  };
  const log = pino(options, out);
  return {
    log,
    flush: () => {
      if (dropped > 0) log.warn({ dropped }, "log lines were dropped");
      out.flushSync();
    },
  };
}
