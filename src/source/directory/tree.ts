// Lists and reads the files of a mesh directory, and tells a finished file from one that is still being written.
import { type BigIntStats, constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** Far above any document file; a larger one is a mistake that must not fill the memory. */
const MAX_FILE_BYTES = 16 * 1024 * 1024;
/** 100k pods at one file each, with room for the rest. */
const MAX_FILES = 200_000;
/** Deeper trees are a loop of links. */
const MAX_DEPTH = 32;

const DOCUMENT = /\.(?:ya?ml|json)$/;

export type Listing = {
  /** Relative paths of document files, with what tells one version of the file from another. */
  readonly files: ReadonlyMap<string, Signature>;
  /** Relative paths of directories, "" for the root: what must be watched. */
  readonly directories: readonly string[];
  /** Directories or files that could not be looked at. What was read from them before stays. */
  readonly troubles: readonly { readonly path: string; readonly reason: string }[];
};

export type Signature = { readonly id: string; readonly modified: number; readonly empty: boolean };

const signatureOf = (stats: BigIntStats): Signature => ({
  id: `${stats.dev}:${stats.ino}:${stats.size}:${stats.mtimeNs}:${stats.ctimeNs}`,
  modified: Number(stats.ctimeMs > stats.mtimeMs ? stats.ctimeMs : stats.mtimeMs),
  empty: stats.size === 0n,
});

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const isGone = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "ENOENT";

/** `entering` is called before a directory is listed, so that a watch set there misses nothing. Names that begin with "." are not ours. */
export async function listTree(root: string, entering: (directory: string) => void): Promise<Listing> {
  const files = new Map<string, Signature>();
  const directories: string[] = [];
  const troubles: { path: string; reason: string }[] = [];

  async function enter(directory: string, depth: number): Promise<void> {
    entering(directory);
    directories.push(directory);
    const names = (await readdir(join(root, directory))).filter((name) => !name.startsWith(".")).sort();
    for (const name of names) await look(directory === "" ? name : `${directory}/${name}`, depth);
  }

  async function look(path: string, depth: number): Promise<void> {
    try {
      const stats = await stat(join(root, path), { bigint: true });
      if (stats.isDirectory()) {
        if (depth >= MAX_DEPTH) throw new Error(`directories are nested deeper than ${MAX_DEPTH}`);
        await enter(path, depth + 1);
      } else if (stats.isFile() && DOCUMENT.test(path)) {
        if (files.size >= MAX_FILES) throw new Error(`the directory holds more than ${MAX_FILES} document files`);
        files.set(path, signatureOf(stats));
      }
    } catch (error) {
      if (!isGone(error) || depth >= MAX_DEPTH) troubles.push({ path, reason: textOf(error) });
    }
  }

  try {
    await enter("", 0);
  } catch (error) {
    // The root itself: also when it is gone, for an absent directory does not say that every object was deleted.
    troubles.push({ path: "", reason: textOf(error) });
  }
  return { files, directories, troubles };
}

export type ReadResult = { readonly text: string } | { readonly unreadable: string } | "gone" | "changing";

/** The file as it is, "changing" when it is not the version that was listed or changes under the reader. */
export async function readListed(root: string, path: string, listed: Signature): Promise<ReadResult> {
  try {
    await using file = await open(join(root, path), constants.O_RDONLY | constants.O_NONBLOCK);
    const before = await file.stat({ bigint: true });
    if (signatureOf(before).id !== listed.id) return "changing";
    if (before.size > MAX_FILE_BYTES) return { unreadable: `the file is larger than ${MAX_FILE_BYTES} bytes` };
    const bytes = await file.readFile();
    if (signatureOf(await file.stat({ bigint: true })).id !== listed.id) return "changing";
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch (error) {
    return isGone(error) ? "gone" : { unreadable: textOf(error) };
  }
}
