// Findings as people read them: the worst first, each with what to do and where more is written.
import { type Finding, hasErrors, type Level, sorted } from "#install/finding.ts";
import { type Exit, exit, type Format } from "./outcome.ts";
import { paint, type Style } from "./table.ts";

const STYLE: Readonly<Record<Level, Style>> = { error: "red", warning: "yellow", note: "dim" };

export const findingPage = (findings: readonly Finding[]): string =>
  sorted(findings)
    .map(
      ({ level, code, subject, message, next, page }) =>
        `${paint(level, STYLE[level])} ${code} ${paint(subject, "bold")}: ${message}\n  next: ${next}\n  see ${page}`,
    )
    .join("\n");

/** Prints them and says how a command that only looked must end. */
export function tell(findings: readonly Finding[], format: Format, wellWhen: string): Exit {
  const healthy = !hasErrors(findings);
  if (format === "json") console.log(JSON.stringify({ healthy, findings: sorted(findings) }, null, 2));
  else console.log(findings.length === 0 ? wellWhen : findingPage(findings));
  return healthy ? exit.ok : exit.failed;
}
