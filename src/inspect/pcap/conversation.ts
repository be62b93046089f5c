// One connection of a recording as the segments that it would have been: handshake, numbers, acknowledgements, gaps, and its end. Pure.
import type { FlowRecord } from "../flow.ts";
import { type End, endOf, flags, packet, SEGMENT_BYTES } from "./packet.ts";
import type { RecordingLine } from "./recording.ts";

export type Packet = {
  readonly time: bigint;
  readonly bytes: Buffer /** Before it was cut. */;
  readonly length: number;
  readonly comments: readonly string[];
};

type Line<Type> = Extract<RecordingLine, { readonly type: Type }>;
type From = "client" | "server";
type Side = { readonly end: End /** Of its first byte. */; readonly first: number /** Bytes so far. */; offset: number; finished: boolean };

export type Conversation = {
  readonly client: End;
  readonly server: End;
  /** Initial sequence numbers, for one that another pod sees too. */
  readonly numbers: readonly [client: number, server: number];
  /** Segments of a new connection; none of one that was open before. */
  begin(time: bigint): Packet[];
  chunk(line: Line<"chunk">): Packet[];
  fin(line: Line<"fin">): Packet[];
  closed(line: Line<"closed">): Packet[];
};

const NOTHING = new Uint8Array();

/** Null when the record does not have both addresses, of one family. `numbers` as another pod's engine saw the same connection. */
export function conversation(
  opened: { readonly flow: FlowRecord; readonly sent: number; readonly received: number; readonly time: string },
  numbers: readonly [number, number] | null,
): Conversation | null {
  const { flow, sent, received } = opened;
  const [clientEnd, serverEnd] = [endOf(flow.source), endOf(flow.destination)];
  if (clientEnd === null || serverEnd === null || clientEnd.address.length !== serverEnd.address.length) return null;
  const initial = numbers ?? initialNumbers(BigInt(opened.time));
  const sides: Record<From, Side> = {
    client: { end: clientEnd, first: initial[0] + 1, offset: sent, finished: false },
    server: { end: serverEnd, first: initial[1] + 1, offset: received, finished: false },
  };
  const isNew = sent === 0 && received === 0;
  /** Go with the next segment. */
  let remarks = about(flow);
  if (!isNew) remarks.push(`open before the recording: ${sent} bytes from the client and ${received} from the server are not here`);

  function segment(time: bigint, from: From, bits: number, payload: Uint8Array = NOTHING, length = payload.length): Packet {
    const [mine, theirs] = from === "client" ? [sides.client, sides.server] : [sides.server, sides.client];
    const acknowledgement = (bits & flags.ack) === 0 ? 0 : theirs.first + theirs.offset + (theirs.finished ? 1 : 0);
    const sequence = mine.first + mine.offset - ((bits & flags.syn) === 0 ? 0 : 1) + (mine.finished ? 1 : 0);
    const bytes = packet({ source: mine.end, destination: theirs.end, sequence, acknowledgement, flags: bits, payload, length });
    const comments = remarks;
    remarks = [];
    return { time, bytes, length: bytes.length - payload.length + length, comments };
  }

  const ack = (time: bigint, from: From): Packet => segment(time, from, flags.ack);

  /** What was not copied before this offset. */
  function skipTo(side: Side, from: From, offset: number): void {
    const missing = offset - side.offset;
    if (missing <= 0) return;
    remarks.push(`${missing} bytes from the ${from} are missing before this: they were not copied`);
    side.offset = offset;
  }

  function finish(time: bigint, from: From, offset: number): Packet[] {
    const side = sides[from];
    if (side.finished) return [];
    skipTo(side, from, offset);
    const fin = segment(time, from, flags.fin | flags.ack);
    side.finished = true;
    return [fin, ack(time, other(from))];
  }

  return {
    client: clientEnd,
    server: serverEnd,
    numbers: initial,
    begin(time) {
      if (!isNew) return [];
      const syn = segment(time, "client", flags.syn);
      // The answer and what follows acknowledge the SYN, which stands before the first byte.
      return [syn, segment(time, "server", flags.syn | flags.ack), ack(time, "client")];
    },
    chunk({ from, offset, length, payload, time: at }) {
      const [side, time] = [sides[from], BigInt(at)];
      skipTo(side, from, offset);
      const packets: Packet[] = [];
      for (let sent = 0; sent < length; sent += SEGMENT_BYTES) {
        const size = Math.min(SEGMENT_BYTES, length - sent);
        const last = sent + size === length ? flags.psh : 0;
        packets.push(segment(time, from, flags.ack | last, payload.subarray(sent, sent + size), size));
        side.offset += size;
      }
      return [...packets, ack(time, other(from))];
    },
    fin: ({ from, offset, time }) => finish(BigInt(time), from, offset),
    closed({ flow: last, time: at }) {
      const time = BigInt(at);
      if (!last.reset) return [...finish(time, "client", last.bytesSent), ...finish(time, "server", last.bytesReceived)];
      skipTo(sides.client, "client", last.bytesSent);
      skipTo(sides.server, "server", last.bytesReceived);
      if (last.code !== null) remarks.push(`cut: ${why(last)}`);
      const by: From[] = last.closedBy === "client" ? ["client"] : last.closedBy === "server" ? ["server"] : ["client", "server"];
      return by.map((from) => segment(time, from, flags.rst | flags.ack));
    },
  };
}

/** A connection that never opened: what the application saw of it. */
export function refusal({
  flow,
  time: at,
}: Line<"closed">): { readonly packets: readonly Packet[]; readonly ends: readonly [End, End] } | null {
  const [source, destination] = [endOf(flow.source), endOf(flow.destination)];
  if (source === null || destination === null || source.address.length !== destination.address.length) return null;
  const time = BigInt(at);
  const [sequence] = initialNumbers(time);
  const common = { payload: NOTHING, length: 0 };
  const syn = packet({ ...common, source, destination, sequence, acknowledgement: 0, flags: flags.syn });
  const reset = packet({
    ...common,
    source: destination,
    destination: source,
    sequence: 0,
    acknowledgement: sequence + 1,
    flags: flags.rst | flags.ack,
  });
  return {
    ends: [source, destination],
    packets: [
      { time, bytes: syn, length: syn.length, comments: [...about(flow), `${flow.verdict}: ${why(flow)}`] },
      { time, bytes: reset, length: reset.length, comments: [] },
    ],
  };
}

const other = (from: From): From => (from === "client" ? "server" : "client");

/** They run with the clock (RFC 9293, 3.4.1): a connection that uses the ports of an older one again is told from it. */
function initialNumbers(time: bigint): [number, number] {
  const clock = Number((time / 4000n) & 0xffffffffn);
  return [clock, (clock + 0x40000000) >>> 0];
}

/** The facts of the mesh, for whoever reads the file. */
function about(flow: FlowRecord): string[] {
  const { source, destination, service, path, tls, policy, rule } = flow;
  return [
    `client ${named(source)}`,
    `server ${named(destination)}`,
    service === null ? "" : `service ${service}`,
    path === null
      ? ""
      : `path ${path}${tls === null ? "" : `, ${tls.version} ${tls.cipher} ${tls.group}, peer certificate ${tls.peerSerial}`}`,
    policy === null ? "" : `policy ${policy} rule ${rule ?? 0}`,
  ].filter((text) => text !== "");
}

const named = ({ namespace, workload, identity, address }: FlowRecord["source"]): string =>
  [workload === null ? address : `${namespace ?? "?"}/${workload}`, identity ?? "identity not proven"].join(", ");

const why = ({ code, reason, policy, rule }: FlowRecord): string =>
  [code ?? "", policy === null ? "" : `policy ${policy} rule ${rule ?? 0}`, reason ?? ""].filter(Boolean).join(": ");
