// Fetches a JSON Web Key Set from an issuer: from where nothing of the node, the machine or its cloud can be reached, in bounded time and size, and
// nothing but public keys of what it says.
import { lookup } from "node:dns/promises";
import { isIP, type LookupFunction } from "node:net";
import { Agent, request } from "undici";
import { z } from "zod";
import { parseAddress, spellAddress } from "#mesh/address.ts";
import type { Fetched, FetchKeys } from "./token-keys.ts";

/** Of the contract with the engine (TokenRule.jwks). */
const MOST_BYTES = 64 * 1024;
/** Issuers have two or three. */
const MOST_KEYS = 100;
const DISCOVERY = "/.well-known/openid-configuration";
const OK = 200;
const NOT_MODIFIED = 304;

export type FetchKeysOptions = {
  /** Addresses of the cluster's nodes, which a key server is not. */
  readonly nodeAddresses: () => Iterable<string>;
  /** A test's own, for servers of this machine. */
  readonly isForbidden?: (address: string) => boolean;
};

type Block = readonly [bytes: readonly number[], bits: number, what: string];

/** Whoever may write a RequestAuthentication must not read there with control's eyes. */
const FORBIDDEN: Readonly<Record<4 | 16, readonly Block[]>> = {
  4: [
    [[0], 8, "this machine"],
    [[127], 8, "this machine"],
    [[169, 254], 16, "link-local, where clouds have their metadata"],
    [[100, 100, 100, 200], 32, "a cloud's metadata"],
    [[168, 63, 129, 16], 32, "a cloud's metadata"],
    [[192, 0, 0, 192], 32, "a cloud's metadata"],
    [[224], 4, "multicast"],
    [[240], 4, "reserved"],
  ],
  16: [
    [[], 96, "this machine"],
    [[0xfe, 0x80], 10, "link-local"],
    [[0xff], 8, "multicast"],
    [[0xfd, 0x00, 0x0e, 0xc2], 32, "a cloud's metadata"],
    [[0x00, 0x64, 0xff, 0x9b], 32, "another address in disguise"],
    [[0x20, 0x02], 16, "another address in disguise"],
  ],
};

function inBlock(address: Uint8Array, [bytes, bits]: Block): boolean {
  for (let bit = 0; bit < bits; bit++) {
    const [at, mask] = [bit >> 3, 0x80 >> (bit & 7)];
    if (((bytes[at] ?? 0) & mask) !== ((address[at] ?? 0) & mask)) return false;
  }
  return true;
}

/** What an address is that must not be asked; empty: it may be. An IPv4 address inside an IPv6 one is what it is inside. */
export function forbiddenAs(address: string): string {
  const bytes = parseAddress(address);
  if (bytes === null) return "no address";
  return FORBIDDEN[bytes.length === 4 ? 4 : 16].find((block) => inBlock(bytes, block))?.[2] ?? "";
}

export function createFetchKeys({ nodeAddresses, isForbidden }: FetchKeysOptions): FetchKeys & { close(): Promise<void> } {
  function refuse(address: string): void {
    if (isForbidden !== undefined ? isForbidden(address) : forbiddenAs(address) !== "")
      throw new Error(`${address} is ${forbiddenAs(address) || "forbidden"}: keys are not fetched from there`);
    const spelt = spellAddress(address);
    for (const node of nodeAddresses())
      if (spellAddress(node) === spelt) throw new Error(`${address} is a node of the cluster: keys are not fetched from there`);
  }

  /** What is connected to is what was looked at: a name that means something else a moment later is asked anew, and looked at anew. */
  const checked: LookupFunction = (host, _options, callback) => {
    lookup(host, { all: true })
      .then((found) => {
        for (const { address } of found) refuse(address);
        callback(null, found);
      })
      .catch((error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), []));
  };
  const agent = new Agent({ connect: { lookup: checked, timeout: 10_000 }, pipelining: 0, connections: 2, maxHeaderSize: 16 * 1024 });

  type Reply = { readonly text: string; readonly etag: string; readonly freshSeconds: number | null } | null;

  async function get(url: URL, etag: string, signal: AbortSignal): Promise<Reply> {
    if (!["http:", "https:"].includes(url.protocol) || url.username !== "" || url.password !== "")
      throw new Error(`${url.origin}: only http and https without a user are fetched from`);
    const literal = url.hostname.replace(/^\[|\]$/g, "");
    if (isIP(literal) !== 0) refuse(literal); // no name, so nobody asks what it means
    const headers = { accept: "application/json", ...(etag === "" ? {} : { "if-none-match": etag }) };
    const { statusCode, headers: got, body } = await request(url, { dispatcher: agent, headers, signal });
    if (statusCode === NOT_MODIFIED && etag !== "") {
      await body.dump();
      return null;
    }
    if (statusCode !== OK) {
      await body.dump({ limit: MOST_BYTES, signal });
      const moved = statusCode >= 300 && statusCode < 400 ? "; redirects are not followed" : "";
      throw new Error(`${url.origin} answered ${statusCode}${moved}`);
    }
    const text = await bounded(body, url);
    return { text, etag: String(got.etag ?? ""), freshSeconds: maxAge(String(got["cache-control"] ?? "")) };
  }

  async function fetch(url: string, { etag, timeoutMilliseconds }: Parameters<FetchKeys>[1]): Promise<Fetched> {
    const signal = AbortSignal.timeout(timeoutMilliseconds);
    try {
      const asked = new URL(url);
      const isDiscovery = asked.pathname.endsWith(DISCOVERY);
      const found = isDiscovery ? await discovered(asked, signal) : asked;
      const reply = await get(found, etag, signal);
      if (reply === null) return { kind: "unchanged", freshSeconds: null };
      return { kind: "keys", jwks: publicKeys(reply.text, found), etag: reply.etag, freshSeconds: reply.freshSeconds };
    } catch (error) {
      if (signal.aborted) throw new Error(`no answer within ${timeoutMilliseconds} ms`, { cause: error });
      throw error;
    }
  }

  async function discovered(url: URL, signal: AbortSignal): Promise<URL> {
    const reply = await get(url, "", signal);
    const uri = discovery.safeParse(parsed(reply?.text ?? "", url)).data?.jwks_uri;
    const found = uri === undefined ? null : URL.parse(uri);
    if (found === null) throw new Error(`${url.href} names no jwks_uri`);
    return found;
  }

  return Object.assign(fetch, { close: () => agent.destroy() });
}

async function bounded(body: AsyncIterable<Buffer> & { destroy(): unknown }, url: URL): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > MOST_BYTES) {
      body.destroy();
      throw new Error(`${url.origin} answered more than ${MOST_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

const discovery = z.object({ jwks_uri: z.string() });
/** What verifying takes and nothing else: a server that publishes a secret by mistake does not publish it to waypoints. */
const publicKey = z.object({
  kty: z.enum(["RSA", "EC", "OKP"]),
  kid: z.string().optional(),
  use: z.string().optional(),
  alg: z.string().optional(),
  key_ops: z.array(z.string()).optional(),
  n: z.string().optional(),
  e: z.string().optional(),
  crv: z.string().optional(),
  x: z.string().optional(),
  y: z.string().optional(),
});
const keySet = z.object({ keys: z.array(z.unknown()).max(MOST_KEYS) });

function parsed(text: string, url: URL): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${url.origin} answered no JSON`, { cause: error });
  }
}

/** Keys of kinds that nobody knows are left out; a set without any key says that there is none, which is obeyed. */
function publicKeys(text: string, url: URL): string {
  const set = keySet.safeParse(parsed(text, url));
  if (!set.success) throw new Error(`${url.origin} answered no JSON Web Key Set`);
  return JSON.stringify({ keys: set.data.keys.flatMap((one) => publicKey.safeParse(one).data ?? []) });
}

/** Null where nothing is said; what may not be kept is asked for again as soon as anything is. */
function maxAge(cacheControl: string): number | null {
  if (/(?:^|[\s,])no-(?:store|cache)(?:$|[\s,])/i.test(cacheControl)) return 0;
  const found = /(?:^|[\s,])max-age=(\d{1,9})/i.exec(cacheControl)?.[1];
  return found === undefined ? null : Number(found);
}
