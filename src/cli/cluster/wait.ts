// Waits for the cluster to become what was asked for, and says each time something has moved.
import { setTimeout as pause } from "node:timers/promises";

export type Look = {
  readonly done: boolean;
  /** How far it is, one line. */
  readonly text: string;
  /** What holds it up, each told once. */
  readonly stuck?: readonly string[];
};

export type Say = (line: string) => void;

/** As often as the API server is asked; kubectl's own waits are no slower. */
const LOOK_MS = 1000;

/** Rejects after `deadlineMs` with what was seen last. */
export async function waitFor(look: () => Promise<Look>, deadlineMs: number, say: Say): Promise<void> {
  const started = performance.now();
  const told = new Set<string>();
  let last = "";
  for (;;) {
    const { done, text, stuck = [] } = await look();
    if (text !== last) say(text);
    last = text;
    for (const one of stuck.filter((line) => !told.has(line))) {
      say(`  ${one}`);
      told.add(one);
    }
    if (done) return;
    if (performance.now() - started > deadlineMs)
      throw new Error([`not within ${Math.round(deadlineMs / 1000)} s: ${text}`, ...stuck].join("\n  "));
    await pause(LOOK_MS);
  }
}

/** "30m", "1h30m", "45s" as milliseconds; null when it is none of these. */
export function parseDuration(text: string): number | null {
  const [, hours, minutes, seconds] = /^(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?$/.exec(text) ?? [];
  const total = (Number(hours ?? 0) * 3600 + Number(minutes ?? 0) * 60 + Number(seconds ?? 0)) * 1000;
  return total > 0 ? total : null;
}

/** People see progress on stderr, whatever the format of the answer. */
export const sayOnStderr: Say = (line) => void process.stderr.write(`${line}\n`);
