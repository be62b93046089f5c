// The file by which the CNI plugin decides while no daemon answers: which namespaces are enrolled, as this daemon last knew.
import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

export type Decisions = {
  /** Writes what changed. A failure rejects, leaves no file, so that nobody passes by an older one, and the next call tries again. */
  write(namespaces: ReadonlyMap<string, boolean>): Promise<void>;
  remove(): Promise<void>;
};

export function decisionFile(path: string): Decisions {
  let written = "";
  let last: Promise<void> = Promise.resolve();

  async function replace(content: string): Promise<void> {
    if (content === written) return;
    written = "";
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o755 });
      await replaceFile(path, content, 0o644);
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
    written = content;
  }

  return {
    write: (namespaces) => {
      const content = format(namespaces);
      const turn = (): Promise<void> => replace(content);
      last = last.then(turn, turn); // one at a time: they share the name of the file that is being written
      return last;
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
  } catch (error) {
    await rm(next, { force: true }); // half a file would take room where there is none
    throw error;
  } finally {
    await file.close();
  }
  await rename(next, path);
}
