// How nodes and waypoints prove who they are in directory mode: one random token per Node document and per pod of a waypoint, in files that only
// root can read.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { constants } from "node:fs";
import { link, lstat, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeDirectory } from "#mesh/directory.ts";
import { meshError } from "#mesh/error.ts";
import { isSubdomain } from "#mesh/identity.ts";
import type { Pod } from "#mesh/objects.ts";
import type { Callers } from "./platform.ts";

/** The refreshes make missing files, read all of them again, and forget whom they do not name. */
export type Tokens = Callers;

const TOKEN_BYTES = 32;
/** Shorter tokens, put there by hand, could be guessed. */
const TOKEN_CHARACTERS = 32;
/** What a caller sends beyond this is not hashed. */
const PRESENTED_CHARACTERS = 512;
const OTHERS = 0o077;

/** `node` is the file's name without its ending. */
export type TokenFault = { readonly node: string; readonly error: unknown };

/** File of a waypoint's pod: no node's name has an underscore in it. */
const fileOf = ({ metadata }: Pod): string => `${metadata.namespace}_${metadata.name}`;

export function openTokens(directory: string, onFault: (fault: TokenFault) => void): Tokens {
  const nodes = createRing(directory, onFault);
  const waypoints = createRing(directory, onFault);

  async function refreshWaypoints(pods: Iterable<Pod>): Promise<readonly string[]> {
    return waypoints.refresh([...pods].map((pod) => [pod.metadata.uid, fileOf(pod)]));
  }

  return {
    refresh: (names) => nodes.refresh([...names].map((name) => [name, name])),
    nodeOf: async (token) => nodes.ownerOf(token),
    refreshWaypoints,
    waypointOf: async (token) => waypoints.ownerOf(token),
  };
}

/** The tokens of one kind of caller. */
function createRing(directory: string, onFault: (fault: TokenFault) => void) {
  let byOwner = new Map<string, Buffer>();

  async function refresh(owners: readonly (readonly [owner: string, file: string])[]): Promise<readonly string[]> {
    makeDirectory("--tokens", directory);
    const next = new Map<string, Buffer>();
    for (const [owner, file] of owners) {
      try {
        next.set(owner, digest(await readOrMake(directory, file)));
      } catch (error) {
        onFault({ node: file, error }); // who has no usable token cannot connect; the others are not affected
      }
    }
    const previous = byOwner;
    byOwner = next;
    return [...previous].filter(([owner, old]) => !(next.get(owner)?.equals(old) ?? false)).map(([owner]) => owner);
  }

  /** Every token is compared, and in constant time: neither which one nor how much of it was right can be measured. */
  function ownerOf(token: string): string | null {
    const presented = digest(token.slice(0, PRESENTED_CHARACTERS));
    let found: string | null = null;
    for (const [owner, known] of byOwner) if (timingSafeEqual(known, presented)) found = owner;
    return found;
  }

  return { refresh, ownerOf };
}

async function readOrMake(directory: string, name: string): Promise<string> {
  if (!name.split("_").every(isSubdomain)) throw meshError("E_SOURCE_INVALID", `name ${JSON.stringify(name)} cannot be a file name`);
  const path = join(directory, `${name}.token`);
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
