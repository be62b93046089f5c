// `trackbed pcap pod/NAME...`: what goes over a pod's connections, decrypted, as a pcapng file that Wireshark and tshark read.
import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { product } from "#contract/tables.ts";
import type { RecordedPod, RecordingRequest } from "#inspect/pcap/recording.ts";
import { redactions } from "#inspect/pcap/redact.ts";
import { type PcapWriter, pcapWriter } from "#inspect/pcap/writer.ts";
import { parseCidr } from "#mesh/address.ts";
import { isLabel } from "#mesh/identity.ts";
import { parseDuration, sayOnStderr } from "./cluster/wait.ts";
import { type Exit, exit, usage } from "./outcome.ts";
import { parsePod } from "./pod.ts";
import { ofCluster, ofDaemons, type Told } from "./recorder.ts";
import { version } from "./version.ts";
import { daemonsOf, type Where } from "./where.ts";

export type PcapOptions = {
  readonly namespace?: string;
  readonly peer: readonly string[];
  readonly port: readonly string[];
  readonly for: string;
  readonly bytes: string;
  readonly snap?: string;
  readonly write?: string;
  readonly account?: string;
  readonly redact: readonly string[];
};

/** For people who watch; more often would only flicker. */
const PROGRESS_MS = 500;
const UNITS: Readonly<Record<string, number>> = { "": 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30 };

export async function runPcap(texts: readonly string[], options: PcapOptions, where: Where): Promise<Exit> {
  const limits = limitsOf(options);
  const wanted = texts.map((text) => parsePod(text, options.namespace));
  const output = options.write ?? "-";
  if (output === "-" && process.stdout.isTTY) throw usage("a pcapng file is no text: name a file with -w FILE, or pipe it into a program");
  const daemons = daemonsOf(where);
  const recorder = daemons === null ? await ofCluster(wanted, limits, where, options.account) : await ofDaemons(wanted, limits, daemons);
  const names = recorder.pods.join(", ");

  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort()).once("SIGTERM", () => stop.abort());
  const writer = pcapWriter(
    `${product.name} ${version()}`,
    `${names}, decrypted on the node; handshakes, numbers and acknowledgements are made up`,
  );
  const failures: unknown[] = [];
  const blocks = merged(
    recorder.answers(stop.signal).map((lines, stream) => blocksOf(lines, stream)),
    (failure) => failures.push(failure),
  );

  async function* blocksOf(lines: AsyncGenerator<Told>, stream: number): AsyncGenerator<Buffer> {
    for await (const { node, line } of lines) {
      if (line.type === "began") begun(line.pods);
      if (line.type === "malformed") sayOnStderr(`trackbed: something cannot be read: ${line.fault}`);
      const block = writer.take(`${stream} ${node}`, line);
      if (block.length > 0) yield block;
    }
  }

  let waiting = recorder.pods.length;
  let progress: NodeJS.Timeout | undefined;
  function begun(some: readonly RecordedPod[]): void {
    for (const { namespace, name, node } of some) sayOnStderr(`recording ${namespace}/${name} on ${node}`);
    waiting -= some.length;
    if (waiting > 0) return;
    sayOnStderr(`until ${options.for}, ${options.bytes} or Ctrl-C`);
    if (process.stderr.isTTY) progress = setInterval(() => process.stderr.write(`\r\x1b[K${told(writer)}`), PROGRESS_MS);
  }

  async function* file(): AsyncGenerator<Buffer> {
    yield writer.start();
    yield* blocks;
    yield writer.finish(BigInt(Date.now()) * 1_000_000n);
  }

  const sink = output === "-" ? process.stdout : createWriteStream(output, { mode: 0o600 });
  try {
    await pipeline(file, sink, { end: output !== "-" });
  } catch (error) {
    // Whoever reads it has seen enough.
    if (!isClosedPipe(error)) throw error;
    stop.abort();
  } finally {
    clearInterval(progress);
  }
  await recorder.close();
  sayOnStderr(`${process.stderr.isTTY ? "\r\x1b[K" : ""}${told(writer)}`);
  const [first] = failures;
  if (first !== undefined) throw first;
  return exit.ok;
}

function told({ tally: { connections, packets, bytes, lostBytes, lostConnections } }: PcapWriter): string {
  const lost = lostBytes + lostConnections === 0 ? "" : `; not copied: ${lostBytes} bytes, ${lostConnections} connections`;
  return `${connections} connections, ${packets} packets, ${bytes} bytes${lost}`;
}

function limitsOf(options: PcapOptions): Omit<RecordingRequest, "pods"> {
  const limitMilliseconds = parseDuration(options.for);
  if (limitMilliseconds === null) throw usage(`--for ${options.for} is not a time such as 30s or 5m`);
  const snapBytes = options.snap === undefined ? 0 : parseBytes("--snap", options.snap);
  const ports = options.port.map((text) => {
    if (!/^[0-9]{1,5}$/.test(text)) throw usage(`--port ${text} is not a number`);
    return Number(text);
  });
  const unknown = options.redact.find((one) => one !== "nothing" && !redactions.some((known) => known === one));
  if (unknown !== undefined) throw usage(`--redact ${unknown} is none of ${redactions.join(", ")}, nothing`);
  // What lets somebody in is blanked unless it is asked for: files travel further than their makers think.
  const redact = options.redact.includes("nothing")
    ? []
    : redactions.filter((one) => one === "authorization" || options.redact.includes(one));
  return {
    redact,
    limitMilliseconds,
    limitBytes: parseBytes("--bytes", options.bytes),
    snapBytes,
    ports,
    peers: options.peer.map(parsePeer),
  };
}

export function parseBytes(flag: string, text: string): number {
  const [, digits, unit = ""] = /^([0-9]{1,12})([kmg]i?b)?$/i.exec(text) ?? [];
  const bytes = Number(digits) * (UNITS[unit.toLowerCase()] ?? Number.NaN);
  if (!(bytes > 0)) throw usage(`${flag} ${text} is not a number of bytes such as 512KB or 10MB`);
  return bytes;
}

/** "10.0.0.0/8", "namespace/NAME", "pod/NAME" or "pod/NAMESPACE/NAME". */
export function parsePeer(text: string): NonNullable<RecordingRequest["peers"]>[number] {
  if (parseCidr(text) !== null) return { network: text };
  const [kind, name = "", ...rest] = text.split("/");
  if (kind === "namespace" && rest.length === 0 && isLabel(name)) return { namespace: name };
  if (kind !== "pod") throw usage(`--peer ${text} is not an address, a block of addresses, pod/NAME, pod/NAMESPACE/NAME or namespace/NAME`);
  const pod = parsePod(text, undefined);
  return pod.namespace === null ? { pod: pod.name } : { namespace: pod.namespace, pod: pod.name };
}

/** Whatever comes first. One that fails ends alone: what others still tell is worth having. */
async function* merged(sources: readonly AsyncGenerator<Buffer>[], failed: (error: unknown) => void): AsyncGenerator<Buffer> {
  const next = (source: AsyncGenerator<Buffer>) =>
    source.next().then(
      (result) => ({ source, result }),
      (error: unknown) => {
        failed(error);
        return { source, result: { done: true as const, value: undefined } };
      },
    );
  const pending = new Map(sources.map((source) => [source, next(source)]));
  while (pending.size > 0) {
    const { source, result } = await Promise.race(pending.values());
    if (result.done === true) pending.delete(source);
    else {
      pending.set(source, next(source));
      yield result.value;
    }
  }
}

const isClosedPipe = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "EPIPE";
