// Runs inside a pod: TCP sockets and DNS queries that a test drives from outside, one JSON command a line in, one JSON answer a line out.
import { createServer, Socket } from "node:net";
import { createInterface } from "node:readline";
import { pattern } from "./pattern.ts";
import { type Answer, type Query, query } from "./query.ts";

/** "open" while nothing ended it, "fin" when the peer finished, otherwise the error's code. */
export type End = "open" | "fin" | (string & {});
export type Opened = { readonly socket: number; readonly address: string; readonly port: number };
export type Read = { readonly text: string; readonly bytes: number; readonly end: End };

type OnSocket = { readonly socket: number };
type Patterned = OnSocket & { readonly bytes: number; readonly seed: number };

/** Each command and its answer; `address` and `port` of an answer are the peer's for accept and our own for connect. */
export type Commands = {
  listen: [{ readonly port: number }, null];
  accept: [{ readonly port: number }, Opened];
  connect: [{ readonly host: string; readonly port: number; readonly localPort?: number }, Opened | { readonly error: string }];
  write: [OnSocket & { readonly text: string }, null];
  finish: [OnSocket, null];
  /** A reset, after everything written has left. */
  reset: [OnSocket, null];
  pause: [OnSocket, null];
  resume: [OnSocket, null];
  /** Up to `bytes` bytes, or to the end. */
  read: [OnSocket & { readonly bytes?: number }, Read];
  send: [Patterned, null];
  /** The offset of the first byte that is not the pattern's or is missing; null when all are right. */
  check: [Patterned, number | null];
  query: [Query, Answer];
};
export type Name = keyof Commands;

type Held = { readonly socket: Socket; chunks: Buffer[]; bytes: number; end: End; changed: () => void };

const held = new Map<number, Held>();
const accepted = new Map<number, Opened[]>();
const accepting = new Map<number, ((opened: Opened) => void)[]>();
let last = 0;

/** Reads at once and keeps it, so that a reset is seen whenever it comes. */
function hold(socket: Socket): number {
  const entry: Held = { socket, chunks: [], bytes: 0, end: "open", changed: () => undefined };
  const ended = (end: End): void => {
    if (entry.end === "open" || end !== "fin") entry.end = end;
    entry.changed();
  };
  socket.on("data", (chunk) => {
    entry.chunks.push(chunk);
    entry.bytes += chunk.length;
    entry.changed();
  });
  socket.on("end", () => ended("fin"));
  socket.on("error", (error: NodeJS.ErrnoException) => ended(error.code ?? error.message));
  held.set(++last, entry);
  return last;
}

function of(id: number): Held {
  const entry = held.get(id);
  if (entry === undefined) throw new Error(`no socket ${id}`);
  return entry;
}

async function take(entry: Held, bytes: number): Promise<Buffer> {
  while (entry.bytes < bytes && entry.end === "open")
    await new Promise<void>((resolve) => {
      entry.changed = resolve;
    });
  const all = Buffer.concat(entry.chunks);
  const taken = all.subarray(0, bytes);
  const rest = all.subarray(taken.length);
  entry.chunks = rest.length > 0 ? [rest] : [];
  entry.bytes = rest.length;
  return taken;
}

const written = (socket: Socket, data: Buffer | string): Promise<void> =>
  new Promise((resolve, reject) => socket.write(data, (error) => (error ? reject(error) : resolve())));

const handlers: { readonly [N in Name]: (command: Commands[N][0]) => Promise<Commands[N][1]> | Commands[N][1] } = {
  listen: ({ port }) =>
    new Promise((resolve, reject) => {
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
        const address = (socket.remoteAddress ?? "").replace(/^::ffff:/, "");
        const opened = { socket: hold(socket), address, port: socket.remotePort ?? 0 };
        const waiting = accepting.get(port)?.shift();
        if (waiting !== undefined) waiting(opened);
        else accepted.set(port, [...(accepted.get(port) ?? []), opened]);
      });
      server.once("error", reject);
      server.listen({ port, host: "::", backlog: 1024 }, () => resolve(null));
    }),
  accept: ({ port }) =>
    accepted.get(port)?.shift() ?? new Promise<Opened>((resolve) => accepting.set(port, [...(accepting.get(port) ?? []), resolve])),
  connect: ({ host, port, localPort }) =>
    new Promise((resolve) => {
      const socket = new Socket({ allowHalfOpen: true });
      socket.setNoDelay(true);
      const failed = (error: NodeJS.ErrnoException): void => resolve({ error: error.code ?? error.message });
      socket.once("error", failed);
      socket.connect({ host, port, ...(localPort === undefined ? {} : { localPort }) }, () => {
        const opened = { address: socket.localAddress ?? "", port: socket.localPort ?? 0, socket: hold(socket) };
        socket.off("error", failed);
        resolve(opened);
      });
    }),
  write: async ({ socket, text }) => {
    await written(of(socket).socket, text);
    return null;
  },
  finish: ({ socket }) => new Promise((resolve) => of(socket).socket.end(() => resolve(null))),
  reset: ({ socket }) => {
    of(socket).socket.resetAndDestroy();
    return null;
  },
  pause: ({ socket }) => {
    of(socket).socket.pause();
    return null;
  },
  resume: ({ socket }) => {
    of(socket).socket.resume();
    return null;
  },
  read: async ({ socket, bytes = Number.POSITIVE_INFINITY }) => {
    const entry = of(socket);
    const taken = await take(entry, bytes);
    return { text: taken.subarray(0, 4096).toString("latin1"), bytes: taken.length, end: entry.end };
  },
  send: async ({ socket, bytes, seed }) => {
    const { slice } = pattern(seed);
    for (let at = 0; at < bytes; ) {
      const chunk = slice(at, bytes - at);
      await written(of(socket).socket, chunk);
      at += chunk.length;
    }
    return null;
  },
  check: async ({ socket, bytes, seed }) => {
    const entry = of(socket);
    const { mismatch } = pattern(seed);
    for (let at = 0; at < bytes; ) {
      const chunk = await take(entry, Math.min(bytes - at, Math.max(1, entry.bytes)));
      const wrong = mismatch(chunk, at);
      if (wrong !== null || chunk.length === 0) return wrong ?? at;
      at += chunk.length;
    }
    return null;
  },
  query,
};

async function answer(line: string): Promise<void> {
  const { id, name, command } = JSON.parse(line) as { id: number; name: Name; command: never };
  const reply = await Promise.resolve()
    .then(() => handlers[name](command))
    .then(
      (value) => ({ id, value }),
      (error: unknown) => ({ id, failed: error instanceof Error ? error.message : String(error) }),
    );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}

createInterface(process.stdin)
  .on("line", (line) => void answer(line))
  .once("close", () => process.exit(0));
process.stdout.write("\n");
