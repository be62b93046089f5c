// Tar headers that depend on nothing but name, kind, mode and size: the same content is the same archive on every machine.
export type Entry =
  | { readonly kind: "directory"; readonly mode: number }
  | { readonly kind: "link"; readonly target: string }
  | { readonly kind: "file"; readonly mode: number; readonly size: number };

export const BLOCK = 512;
/** Two empty blocks end an archive. */
export const END = Buffer.alloc(2 * BLOCK);

const FLAG = { file: "0", link: "2", directory: "5" } as const;
/** What a plain header has room for; longer names travel in an extended header before it. */
const NAME_BYTES = 100;
const MAX_SIZE = 8 ** 11 - 1;

/** The header blocks before an entry's content: times are zero and the owner is root. */
export function header(path: string, entry: Entry): Buffer {
  const name = entry.kind === "directory" ? `${path}/` : path;
  const target = entry.kind === "link" ? entry.target : "";
  const extended = [
    ...(Buffer.byteLength(name) > NAME_BYTES ? [record("path", name)] : []),
    ...(Buffer.byteLength(target) > NAME_BYTES ? [record("linkpath", target)] : []),
  ].join("");
  const size = entry.kind === "file" ? entry.size : 0;
  const plain = block(name, entry.kind === "link" ? 0o777 : entry.mode, size, FLAG[entry.kind], target);
  if (extended === "") return plain;
  const content = Buffer.from(extended);
  return Buffer.concat([block("@extended", 0o644, content.length, "x", ""), content, padding(content.length), plain]);
}

/** What fills the last block of a content of this size. */
export const padding = (size: number): Buffer => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);

/** "LENGTH key=value\n", where the length counts its own digits. */
function record(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return `${length} ${key}=${value}\n`;
}

function block(name: string, mode: number, size: number, flag: string, target: string): Buffer {
  if (size > MAX_SIZE) throw new Error(`${name}: ${size} bytes do not fit a tar archive`);
  const bytes = Buffer.alloc(BLOCK);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  bytes.write(name.slice(0, NAME_BYTES), 0, NAME_BYTES);
  bytes.write(octal(mode, 7) + octal(0, 7) + octal(0, 7) + octal(size, 11) + octal(0, 11), NAME_BYTES, "latin1");
  bytes.write(" ".repeat(8) + flag, 148, "latin1"); // the checksum counts its own field as spaces
  bytes.write(target.slice(0, NAME_BYTES), 157, NAME_BYTES);
  bytes.write("ustar\0" + "00", 257, "latin1");
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return bytes;
}
