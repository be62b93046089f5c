// How a node proves its name in directory mode: one random token per Node document, in a file that only root can read.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { constants } from "node:fs";
import { link, lstat, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeDirectory } from "#mesh/directory.ts";
import { meshError } from "#mesh/error.ts";
import { isSubdomain } from "#mesh/identity.ts";
import type { Callers } from "./platform.ts";

/** `refresh` makes missing files, reads all of them again, and forgets nodes that are not named. */
export type Tokens = Callers;

const TOKEN_BYTES = 32;
/** Shorter tokens, put there by hand, could be guessed. */
const TOKEN_CHARACTERS = 32;
/** What a caller sends beyond this is not hashed. */
const PRESENTED_CHARACTERS = 512;
const OTHERS = 0o077;

export type TokenFault = { readonly node: string; readonly error: unknown };

export function openTokens(directory: string, onFault: (fault: TokenFault) => void): Tokens {
  let byNode = new Map<string, Buffer>();

  async function refresh(nodes: Iterable<string>): Promise<readonly string[]> {
    makeDirectory("--tokens", directory);
    const next = new Map<string, Buffer>();
    for (const node of nodes) {
      try {
        next.set(node, digest(await readOrMake(directory, node)));
      } catch (error) {
        onFault({ node, error }); // a node without a usable token cannot connect; the others are not affected
      }
    }
    const previous = byNode;
    byNode = next;
    return [...previous].filter(([node, old]) => !(next.get(node)?.equals(old) ?? false)).map(([node]) => node);
  }

  /** Every token is compared, and in constant time: neither which one nor how much of it was right can be measured. */
  async function nodeOf(token: string): Promise<string | null> {
    const presented = digest(token.slice(0, PRESENTED_CHARACTERS));
    let found: string | null = null;
    for (const [node, known] of byNode) if (timingSafeEqual(known, presented)) found = node;
    return found;
  }

  return { refresh, nodeOf };
}

async function readOrMake(directory: string, node: string): Promise<string> {
  if (!isSubdomain(node)) throw meshError("E_SOURCE_INVALID", `node name ${JSON.stringify(node)} cannot be a file name`);
  const path = join(directory, `${node}.token`);
  const stat = await lstat(path).catch(absent);
  if (stat === null) return make(path);
  if (!stat.isFile() || (stat.mode & OTHERS) !== 0) {
    throw meshError("E_CONTROL_UNAUTHENTICATED", `token file ${path} must be a regular file of mode 600; remove it to get a new one`);
  }
  const token = (await readFile(path, "utf8")).trim();
  if (token.length < TOKEN_CHARACTERS || token.length > PRESENTED_CHARACTERS) {
    throw meshError(
      "E_CONTROL_UNAUTHENTICATED",
      `token file ${path} holds ${token.length} characters, ${TOKEN_CHARACTERS} to ${PRESENTED_CHARACTERS} are needed`,
    );
  }
  return token;
}

/** Written whole and then given its name: a daemon never reads half a token. */
async function make(path: string): Promise<string> {
  const token = randomBytes(TOKEN_BYTES).toString("base64url");
  const next = `${path}.${process.pid}.next`;
  const file = await open(next, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o600);
  try {
    await file.chmod(0o600);
    await file.writeFile(`${token}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await link(next, path);
  await rm(next);
  return token;
}

function absent(error: unknown): null {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
  throw error;
}

const digest = (token: string): Buffer => createHash("sha256").update(token).digest();
