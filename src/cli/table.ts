// Aligned columns for terminals and pipes; colour only where somebody sees it.

export type Style = "green" | "red" | "yellow" | "dim" | "bold";
const CODES: Readonly<Record<Style, number>> = { green: 32, red: 31, yellow: 33, dim: 2, bold: 1 };

/** https://no-color.org: any value that is not empty switches colour off. */
const colourful = (): boolean => process.stdout.isTTY === true && (process.env["NO_COLOR"] ?? "") === "";

export const paint = (text: string, style: Style): string => (colourful() && text !== "" ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text);

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the control characters that paint() writes
const INVISIBLE = /\x1b\[\d+m/g;
const width = (text: string): number => text.replace(INVISIBLE, "").length;

/** Columns two spaces apart, as wide as their widest cell; no spaces at line ends. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header.map((text) => paint(text, "bold")), ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => width(row[column] ?? ""))));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - width(cell)))
      .join("  ")
      .trimEnd();
  return all.map(line).join("\n");
}
