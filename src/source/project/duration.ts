// Durations as the Gateway API writes them (GEP-2257): one to four numbers, each with its unit.
import { z } from "zod";

const FORM = /^(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}$/;
const MILLISECONDS: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** In milliseconds; null when it is none. */
export function parseDuration(text: string): number | null {
  if (!FORM.test(text)) return null;
  return [...text.matchAll(/([0-9]+)([a-z]+)/g)].reduce((sum, [, value, unit = ""]) => sum + Number(value) * (MILLISECONDS[unit] ?? 0), 0);
}

/** What 32 bits hold, seven weeks: 49 days more than anybody waits for a request. */
const MOST_MILLISECONDS = 0xffff_ffff;

export const duration = z.string().transform((text, context) => {
  const milliseconds = parseDuration(text);
  if (milliseconds === null) context.addIssue({ code: "custom", message: "must be a duration: one to four of 5h, 5m, 5s, 5ms" });
  return Math.min(milliseconds ?? 0, MOST_MILLISECONDS);
});
