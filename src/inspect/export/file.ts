// Flow records as lines of JSON in files of bounded size, or on standard output: what `trackbed flows -o json` prints, as it happens.
import { type FileHandle, open, rename, stat } from "node:fs/promises";
import type { Sink } from "./exporter.ts";
import type { FileSettings } from "./settings.ts";

/** NAME, NAME.1 and so on; the last one is overwritten. */
const FILES = 4;
/** They name who talks to whom: root's alone, like the ledger. */
const MODE = 0o600;

/** `failed`: told when writing begins to fail, and (null) when it goes on. */
export function fileSink(node: string, { path, mostBytes }: FileSettings, failed: (error: unknown) => void): Sink {
  const most = Math.floor(mostBytes / FILES);
  let file: { readonly handle: FileHandle; bytes: number } | null = null;
  let broken = false;

  async function current(): Promise<{ readonly handle: FileHandle; bytes: number }> {
    if (file !== null && file.bytes < most) return file;
    if (file !== null) {
      const full = file;
      file = null;
      await full.handle.close();
    }
    const there = await stat(path).catch(() => null);
    if (there !== null && there.size >= most) await rotate(path);
    const handle = await open(path, "a", MODE);
    file = { handle, bytes: (await handle.stat()).size };
    return file;
  }

  return {
    name: "file",
    take: async (lines) => {
      let written = 0;
      try {
        while (written < lines.length) {
          const into = await current();
          let [text, bytes, upTo] = ["", into.bytes, written];
          // As many at once as the file has room for.
          for (; upTo < lines.length && bytes < most; upTo++) {
            const line = `${JSON.stringify({ ...lines[upTo], node })}\n`;
            text += line;
            bytes += Buffer.byteLength(line);
          }
          await into.handle.appendFile(text);
          [into.bytes, written] = [bytes, upTo];
        }
        if (broken) failed(null);
        broken = false;
        return { refused: 0 };
      } catch (error) {
        if (!broken) failed(error);
        broken = true;
        await file?.handle.close().catch(() => undefined); // it is in trouble already
        file = null;
        return { refused: lines.length - written };
      }
    },
  };
}

async function rotate(path: string): Promise<void> {
  for (let number = FILES - 1; number > 0; number--) {
    const from = number === 1 ? path : `${path}.${number - 1}`;
    await rename(from, `${path}.${number}`).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error; // so many there were not yet
    });
  }
}

/** Waits for whoever reads it. */
export function outputSink(node: string, output: NodeJS.WritableStream): Sink {
  return {
    name: "file",
    take: async (lines, stop) => {
      const text = lines.map((line) => `${JSON.stringify({ ...line, node })}\n`).join("");
      if (!output.write(text))
        await new Promise<void>((resolve, reject) => {
          const end = (act: () => void) => () => {
            output.off("drain", drained);
            stop.removeEventListener("abort", stopped);
            act();
          };
          const drained = end(resolve);
          const stopped = end(() => reject(new Error("the export ends")));
          output.once("drain", drained);
          stop.addEventListener("abort", stopped, { once: true });
        });
      return { refused: 0 };
    },
  };
}
