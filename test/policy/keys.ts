// Looks for private keys where none may be: in files, and in the memory of a process.
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";

/** PKCS #8 of an EC key on P-256, up to where the key itself begins: INTEGER 0, the two object identifiers, the start of the OCTET STRING. */
const PKCS8 = Buffer.from("020100301306072a8648ce3d020106082a8648ce3d03010704", "hex");
const PEM = Buffer.from(`-----BEGIN${" "}PRIVATE KEY-----`);
const CHUNK = 1 << 20;

const holdsKey = (bytes: Buffer): boolean => bytes.includes(PKCS8) || /-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(bytes.toString("latin1"));

/** Files at or below a path with a private key in them, in PEM or DER. */
export function findPrivateKeys(path: string): string[] {
  const stat = statSync(path);
  if (stat.isDirectory()) return readdirSync(path).flatMap((name) => findPrivateKeys(join(path, name)));
  return stat.isFile() && holdsKey(readFileSync(path)) ? [path] : [];
}

/** How many workload keys (DER or PEM) lie in the writable memory of a process; for root. */
export function searchMemory(pid: number): number {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  const chunk = Buffer.alloc(CHUNK + PKCS8.length);
  let found = 0;
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
      const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? [];
      if (from === undefined || to === undefined) continue;
      const end = Number.parseInt(to, 16);
      for (let at = Number.parseInt(from, 16); at < end; at += CHUNK) {
        const length = Math.min(chunk.length, end - at);
        const read = readAt(memory, chunk, length, at);
        const bytes = chunk.subarray(0, read);
        if (bytes.includes(PKCS8) || bytes.includes(PEM)) found++;
      }
    }
  } finally {
    closeSync(memory);
  }
  return found;
}

/** 0 for pages that went away since the map was read. */
function readAt(memory: number, into: Buffer, length: number, at: number): number {
  try {
    return readSync(memory, into, 0, length, at);
  } catch {
    return 0;
  }
}
