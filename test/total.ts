// The plain total of a test run: what cargo's output and the Node runner's events add up to, skipped tests with their reasons.
export type Total = { passed: number; failed: number; skipped: string[] };

export const nothing = (): Total => ({ passed: 0, failed: 0, skipped: [] });

const CARGO_RESULT = /^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;/;
/** libtest counts a test that returns at once as passed; ours say in this form that they did not run. */
const CARGO_SKIPPED = /^skipped: (.*)$/;

/** Adds what one line of `cargo test` tells. */
export function countCargo(total: Total, line: string): void {
  const [, passed, failed, ignored] = CARGO_RESULT.exec(line) ?? [];
  if (passed !== undefined) {
    total.passed += Number(passed);
    total.failed += Number(failed);
    for (let i = 0; i < Number(ignored); i++) total.skipped.push("ignored by its source");
  }
  const skipped = CARGO_SKIPPED.exec(line)?.[1];
  if (skipped === undefined) return;
  total.passed--;
  total.skipped.push(skipped);
}

export function render(totals: Readonly<Record<string, Total>>): string {
  const line = (name: string, { passed, failed, skipped }: Total): string =>
    `${name.padEnd(12)} ${passed} passed, ${failed} failed, ${skipped.length} skipped`;
  const all = Object.values(totals);
  const sum = (of: (total: Total) => number): number => all.reduce((before, total) => before + of(total), 0);
  const skipped = all.flatMap((total) => total.skipped);
  return [
    ...skipped.map((reason) => `skipped: ${reason}`),
    ...Object.entries(totals).map(([name, total]) => line(name, total)),
    line("total", { passed: sum(({ passed }) => passed), failed: sum(({ failed }) => failed), skipped }),
  ].join("\n");
}
