// Counts connections of a pod that are older than its capture: not meshed until they are opened again.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { marks, ports } from "#contract/tables.ts";
import { visitNamespace } from "#engine/namespace.ts";

const run = promisify(execFile);

/** A pod with more sockets than fit is not counted. */
const LISTING_BYTES = 16 * 1024 * 1024;
const LISTING_MS = 4000;

/** Null when the namespace is gone. */
export function countUnmeshed(netns: string | null): Promise<number | null> {
  return visitNamespace(netns, async (open) => {
    if (open === null) return null;
    const command = [`--net=${open.path}`, "ss", "-HtnOe", "state", "established"];
    const { stdout } = await run("nsenter", command, { maxBuffer: LISTING_BYTES, timeout: LISTING_MS });
    return unmeshed(stdout);
  });
}

/** A socket accepted on one of them is the engine's: applications cannot have them while it listens. */
const LISTENERS: ReadonlySet<number> = new Set([ports.outbound, ports.inboundPlain, ports.hbone, ports.dns]);

type Socket = { readonly local: string; readonly remote: string; readonly engine: boolean };

/**
 * Every established socket, less the engine's own (dialled: they carry its mark; accepted: they have its ports), less those whose other end in this namespace is the engine's
 * (captured) or the pod's own (loopback, or itself by pod address).
 */
export function unmeshed(listing: string): number {
  const sockets = listing
    .split("\n")
    .map(parseSocket)
    .filter((socket) => socket !== null);
  const locals = new Set(sockets.map(({ local }) => local));
  const captured = new Set(sockets.filter(({ engine }) => engine).map(({ remote }) => remote));
  return sockets.filter(({ engine, local, remote }) => !engine && !captured.has(local) && !locals.has(remote)).length;
}

/** "0 0 10.0.0.1:80 10.0.0.2:4711 ino:… sk:… fwmark:0x539 …"; with `state` given, ss leaves the state column out. */
function parseSocket(line: string): Socket | null {
  const [, , local, remote, ...details] = line.trim().split(/\s+/);
  if (local === undefined || remote === undefined) return null;
  const mark = details.find((detail) => detail.startsWith("fwmark:"))?.slice("fwmark:".length);
  const dialled = mark !== undefined && (Number(mark) & marks.mask) === marks.engine;
  const accepted = LISTENERS.has(Number(local.slice(local.lastIndexOf(":") + 1)));
  return { local: plain(local), remote: plain(remote), engine: dialled || accepted };
}

/** An IPv4 connection of a dual-stack socket is listed as "[::ffff:10.0.0.1]:80", its other end perhaps not. An interface may follow "%". */
const plain = (text: string): string => text.replace(/^\[::ffff:([0-9.]+)\]/, "$1").replace(/%[^\]:]+/, "");
