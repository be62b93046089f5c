// Writes a chart's files to a directory.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export function writeChart(directory: string, files: ReadonlyMap<string, string>): void {
  for (const [path, text] of files) {
    const to = join(directory, path);
    mkdirSync(dirname(to), { recursive: true });
    writeFileSync(to, text);
  }
}
