// The file by which the CNI plugin decides while no daemon answers: which namespaces are enrolled, as this daemon last knew.
import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

export type Decisions = {
  /** Writes what changed; a failure rejects and the next call tries again. */
  write(namespaces: ReadonlyMap<string, boolean>): Promise<void>;
  remove(): Promise<void>;
};

export function decisionFile(path: string): Decisions {
  let written = "";
  return {
    write: async (namespaces) => {
      const content = format(namespaces);
      if (content === written) return;
      await mkdir(dirname(path), { recursive: true, mode: 0o755 });
      await replaceFile(path, content, 0o644);
      written = content;
    },
    remove: async () => {
      written = "";
      await rm(path, { force: true });
    },
  };
}

const format = (namespaces: ReadonlyMap<string, boolean>): string =>
  `${JSON.stringify({ kind: "trackbed-namespaces", format: 1, namespaces: Object.fromEntries([...namespaces].sort()) })}\n`;

/** Whole or not at all, also after a power cut. */
export async function replaceFile(path: string, content: string | Buffer, mode: number): Promise<void> {
  // Not a name that a runtime would read as configuration.
  const next = `${path}.${process.pid}.next`;
  const file = await open(next, "w", mode);
  try {
    await file.writeFile(content);
    await file.chmod(mode);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(next, path);
}
