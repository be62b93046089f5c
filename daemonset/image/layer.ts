// What one layer of an image holds: files, trees, and programs with the shared libraries that they need.
import { execFileSync } from "node:child_process";
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Entry } from "./tar.ts";

/** An entry and where its content comes from: a file here, or the bytes themselves. */
export type Content = { readonly entry: Entry; readonly from: string | Buffer | null };
export type Layer = {
  readonly contents: ReadonlyMap<string, Content>;
  directory(path: string, mode?: number): void;
  link(path: string, target: string): void;
  text(path: string, text: string, mode?: number): void;
  file(source: string, path: string, mode?: number): void;
  /** A directory with everything in it that `wanted` lets in (path below the directory). */
  tree(source: string, path: string, wanted?: (path: string) => boolean): void;
  /** A program and the libraries that the dynamic linker finds for it here. */
  program(source: string, path: string): void;
};

export function newLayer(): Layer {
  const contents = new Map<string, Content>();
  const put = (path: string, content: Content): void => {
    const clean = path.replace(/^\/+|\/+$/g, "");
    const parent = dirname(clean);
    if (parent !== "." && !contents.has(parent)) put(parent, { entry: { kind: "directory", mode: 0o755 }, from: null });
    contents.set(clean, content);
  };
  const layer: Layer = {
    contents,
    directory: (path, mode = 0o755) => put(path, { entry: { kind: "directory", mode }, from: null }),
    link: (path, target) => put(path, { entry: { kind: "link", target }, from: null }),
    text(path, text, mode = 0o644) {
      const from = Buffer.from(text);
      put(path, { entry: { kind: "file", mode, size: from.length }, from });
    },
    file(source, path, mode) {
      const stat = statSync(source);
      put(path, { entry: { kind: "file", mode: mode ?? (stat.mode & 0o111 ? 0o755 : 0o644), size: stat.size }, from: source });
    },
    tree(source, path, wanted = () => true) {
      layer.directory(path);
      for (const name of readdirSync(source, { recursive: true, encoding: "utf8" }).filter(wanted)) {
        const stat = lstatSync(join(source, name));
        if (stat.isSymbolicLink()) layer.link(join(path, name), readlinkSync(join(source, name)));
        else if (stat.isDirectory()) layer.directory(join(path, name));
        else if (stat.isFile()) layer.file(join(source, name), join(path, name));
      }
    },
    program(source, path) {
      layer.file(source, path, 0o755);
      for (const library of libraries(source)) layer.file(realpathSync(library), library, 0o755);
    },
  };
  return layer;
}

/** Writes a layer's content into a directory, for builders that pack images themselves. */
export function unpack(layer: Layer, directory: string): void {
  for (const [path, { entry, from }] of [...layer.contents].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const target = join(directory, path);
    if (entry.kind === "directory") mkdirSync(target, { recursive: true, mode: entry.mode });
    else if (entry.kind === "link") symlinkSync(entry.target, target);
    else if (from !== null) writeFileSync(target, typeof from === "string" ? readFileSync(from) : from, { mode: entry.mode });
  }
}

/** Paths at which the program looks for its libraries; none for a static one. */
function libraries(program: string): string[] {
  let listing: string;
  try {
    listing = execFileSync("ldd", [program], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    if (error instanceof Error && "stderr" in error && String(error.stderr).includes("not a dynamic executable")) return [];
    throw error;
  }
  return listing.split("\n").flatMap((line) => {
    if (line.includes("not found")) throw new Error(`${program}: ${line.trim()}`);
    // "libm.so.6 => /lib/…/libm.so.6 (0x…)", or the dynamic linker itself: "/lib64/ld-linux-x86-64.so.2 (0x…)"
    const match = /=> (\/\S+)|^\s*(\/\S+) \(/.exec(line);
    return match === null ? [] : [match[1] ?? match[2] ?? ""];
  });
}
