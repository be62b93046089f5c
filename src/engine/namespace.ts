// A pod's network namespace from the daemon's side: opened once, then shown to others by descriptor, so that one visit is one namespace.
import { spawn } from "node:child_process";
import { constants, readFileSync, statSync } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { z } from "zod";
import { type ErrorCode, errors } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";

export type OpenNamespace = {
  /** A path that leads to this very namespace for child processes too, whatever becomes of the one it was opened by. */
  readonly path: string;
  readonly fd: number;
};

/** Longest life of a native helper: it answers within milliseconds, and within 5 s when the engine is slow to take a hand-over. */
const HELPER_MS = 8000;
/** One line of JSON; `addresses` of a pod with many interfaces is the longest. */
const HELPER_BYTES = 64 * 1024;

/** Runs `visit` with the namespace open; `visit(null)` when nothing is at the path. Not kept open: a descriptor would keep it alive. */
export async function visitNamespace<T>(path: string | null, visit: (open: OpenNamespace | null) => Promise<T>): Promise<T> {
  const handle = path === null ? null : await openOrNull(path);
  if (handle === null) return visit(null);
  try {
    return await visit({ path: `/proc/${process.pid}/fd/${handle.fd}`, fd: handle.fd });
  } finally {
    await handle.close();
  }
}

/** Documents name the path, so it is not believed: a FIFO must not hold the daemon, and the node's own traffic is nobody's to capture. */
async function openOrNull(path: string): Promise<FileHandle | null> {
  if (!isAbsolute(path)) throw meshError("E_CAPTURE_NETNS_GONE", `the network namespace ${JSON.stringify(path)} is not an absolute path`);
  const handle = await openFile(path);
  if (handle === null || !(await isOwn(handle))) return handle;
  await handle.close();
  throw meshError("E_CAPTURE_HOST_NETWORK", `${path} is the node's own network namespace`);
}

async function isOwn(handle: FileHandle): Promise<boolean> {
  const [there, own] = await Promise.all([handle.stat({ bigint: true }), stat("/proc/self/ns/net", { bigint: true })]);
  return there.dev === own.dev && there.ino === own.ino;
}

async function openFile(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : "";
    if (code === "ENOENT" || code === "ESRCH" || code === "ENOTDIR") return null;
    throw meshError("E_CAPTURE_NETNS_GONE", `the network namespace ${path} cannot be opened`, cause);
  }
}

/** Tells one namespace from its successor at the same path, most of the time: inode numbers are reused, so the cookie has the last word. */
export function glanceAt(path: string | null): string {
  try {
    const found = path === null ? undefined : statSync(path, { throwIfNoEntry: false });
    return found === undefined ? "nothing" : `${found.dev}:${found.ino}`;
  } catch (error) {
    return String(error); // the look that follows says what is wrong with it
  }
}

export const readBootId = (): string => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();

const Failure = z.object({ code: z.string(), reason: z.string() });
const Cookie = z.object({ netns_cookie: z.string().regex(/^[0-9]+$/) });
const Holdings = Cookie.extend({ addresses: z.array(z.object({ address: z.string() })) });
const Receipt = Cookie.extend({ uid: z.string() });

/** SO_NETNS_COOKIE: with the boot id it names a namespace for ever. */
export async function readCookie(helper: string, namespace: OpenNamespace): Promise<bigint> {
  return BigInt((await run(helper, ["cookie"], namespace.fd, Cookie)).netns_cookie);
}

/** The cookie and every address of the namespace, in one look. */
export async function readHoldings(
  helper: string,
  namespace: OpenNamespace,
): Promise<{ readonly cookie: bigint; readonly addresses: readonly string[] }> {
  const { netns_cookie, addresses } = await run(helper, ["addresses"], namespace.fd, Holdings);
  return { cookie: BigInt(netns_cookie), addresses: addresses.map(({ address }) => address) };
}

/** Gives the engine the namespace for a pod; what it read there is the answer. */
export async function handOver(helper: string, socket: string, uid: string, namespace: OpenNamespace): Promise<bigint> {
  const receipt = await run(helper, ["send", "--socket", socket, "--uid", uid], namespace.fd, Receipt);
  if (receipt.uid !== uid) throw meshError("E_HANDOVER_REFUSED", `the engine answered for pod ${receipt.uid} when it was given ${uid}`);
  return BigInt(receipt.netns_cookie);
}

const Frames = z.object({
  /** Segments with payload. */
  frames: z.number(),
  streams: z.number(),
  records: z.number(),
  /** Of payload, each byte once: parts of records, */
  tlsBytes: z.number(),
  /** what cannot be, */
  otherBytes: z.number(),
  /** and of streams that were joined in the middle, or had gaps, what is too little to tell. */
  unknownBytes: z.number(),
  repeatedBytes: z.number(),
  missedBytes: z.number(),
  /** Frames that were not looked at: there were too many. */
  unwatched: z.number(),
  /** Streams with bytes that cannot be TLS, some of them. */
  examples: z.array(z.string()),
});

/** See native/netns/src/frames.rs, which counts them. */
export type FrameCounts = z.output<typeof Frames>;

export type FrameWatch = {
  readonly port: number;
  /** Only between these addresses; none: all. */
  readonly between: readonly string[];
  readonly milliseconds: number;
};

/** What TCP to and from a port carried on the wire of a namespace for a while. `began`: from now on everything is looked at. */
export async function countFrames(
  helper: string,
  namespace: OpenNamespace,
  { port, between, milliseconds }: FrameWatch,
  began: () => void,
  stop: AbortSignal,
): Promise<FrameCounts> {
  const args = ["frames", "--port", `${port}`, "--for", `${milliseconds}`, ...between.flatMap((address) => ["--between", address])];
  const child = spawn(helper, args, {
    stdio: ["ignore", "pipe", "pipe", namespace.fd],
    timeout: milliseconds + HELPER_MS,
    killSignal: "SIGKILL",
    signal: stop,
  });
  const err = collect(child.stderr);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  ended.catch(() => undefined); // awaited behind its lines
  let last = "";
  for await (const line of createInterface({ input: child.stdout ?? Readable.from([]) })) {
    if (line === '{"began":true}') began();
    last = line;
  }
  const code = await ended.catch((cause: unknown) => {
    throw meshError("E_HANDOVER_REFUSED", `${helper} could not be run`, cause);
  });
  return answerOf("frames", code, last, err(), Frames);
}

/** The namespace is descriptor 3 of the helper: Node cannot pass descriptors over a socket, but a child inherits them. */
async function run<T>(helper: string, args: readonly string[], fd: number, answer: z.ZodType<T>): Promise<T> {
  const child = spawn(helper, args, { stdio: ["ignore", "pipe", "pipe", fd], timeout: HELPER_MS, killSignal: "SIGKILL" });
  const out = collect(child.stdout);
  const err = collect(child.stderr);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  }).catch((cause: unknown) => {
    throw meshError("E_HANDOVER_REFUSED", `${helper} could not be run`, cause);
  });
  return answerOf(args[0] ?? "", code, out(), err(), answer);
}

function answerOf<T>(verb: string, code: number | null, out: string, err: string, answer: z.ZodType<T>): T {
  const parsed = parseLine(out);
  const good = answer.safeParse(parsed);
  if (code === 0 && good.success) return good.data;
  const failure = Failure.safeParse(parsed);
  if (failure.success) throw meshError(knownCode(failure.data.code), failure.data.reason);
  throw meshError(
    "E_HANDOVER_REFUSED",
    `trackbed-netns ${verb} ended with ${code ?? "a signal"}: ${err.trim() || out.trim() || "no output"}`,
  );
}

const knownCode = (code: string): ErrorCode => (code in errors ? (code as ErrorCode) : "E_HANDOVER_REFUSED");

function parseLine(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the caller says what the helper printed instead
  }
}

function collect(stream: Readable | null): () => string {
  let text = "";
  stream?.setEncoding("utf8");
  stream?.on("data", (chunk: string) => {
    if (text.length < HELPER_BYTES) text += chunk;
  });
  return () => text;
}
