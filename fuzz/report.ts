// Reads what libFuzzer says at its end.

export const TARGETS = ["record", "h2", "hpack", "authority", "observe"] as const;

export type Report = {
  readonly executions: number;
  /** Edges of the program that were reached. */
  readonly coverage: number;
  /** Edges with how often and with what was compared: what libFuzzer goes after. */
  readonly features: number;
  /** Inputs that each reach something that no other does. */
  readonly corpus: number;
  /** Most resident memory. */
  readonly memory: number;
};

export function readReport(log: string): Report {
  const last = (pattern: RegExp): number => Number([...log.matchAll(pattern)].at(-1)?.[1] ?? 0);
  return {
    executions: last(/stat::number_of_executed_units:\s+(\d+)/g) || last(/^#(\d+)/gm),
    coverage: last(/\bcov: (\d+)/g),
    features: last(/\bft: (\d+)/g),
    corpus: last(/\bcorp: (\d+)/g),
    memory: last(/stat::peak_rss_mb:\s+(\d+)/g),
  };
}
