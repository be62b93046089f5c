// Lines of recordings, of one node or several, as one pcapng file: an interface for each pod, names for addresses, packets for connections. Pure.
import { parseAddress } from "#mesh/address.ts";
import type { FlowRecord } from "../flow.ts";
import { type Conversation, conversation, type Packet, refusal } from "./conversation.ts";
import { enhancedPacket, interfaceDescription, interfaceStatistics, nameResolution, sectionHeader } from "./pcapng.ts";
import type { RecordedPod, RecordingLine } from "./recording.ts";

export type Tally = { packets: number; connections: number; bytes: number; lostBytes: number; lostConnections: number };

export type PcapWriter = {
  readonly tally: Readonly<Tally>;
  /** The beginning of the file. */
  start(): Buffer;
  /** What a line adds to it; `stream` tells the answers of several nodes apart. */
  take(stream: string, line: RecordingLine): Buffer;
  /** The end of the file. */
  finish(time: bigint): Buffer;
};

type Face = { readonly index: number; readonly stream: string; lost: number };
type Open = { readonly talk: Conversation; readonly face: number; readonly tuple: string };

const NOTHING = Buffer.alloc(0);

export function pcapWriter(application: string, comment: string): PcapWriter {
  const tally: Tally = { packets: 0, connections: 0, bytes: 0, lostBytes: 0, lostConnections: 0 };
  const faces = new Map<string, Face>();
  const open = new Map<string, Open>();
  /** Initial numbers of connections by both ends: two pods of one connection show the same packets, as two links would. */
  const numbers = new Map<string, { readonly numbers: Conversation["numbers"]; users: number }>();
  const named = new Map<string, string>();

  function begin(stream: string, pods: readonly RecordedPod[]): Buffer {
    const blocks = pods.map(({ uid, namespace, name, node }) => {
      faces.set(uid, { index: faces.size, stream, lost: 0 });
      return interfaceDescription(`${namespace}/${name}`, `pod ${namespace}/${name} on node ${node}, decrypted by Trackbed`);
    });
    const names = pods.flatMap(({ addresses, namespace, name }) => addresses.map((address) => [address, `${name}.${namespace}`] as const));
    return Buffer.concat([...blocks, tell(names)]);
  }

  /** Names that were not told yet. */
  function tell(names: readonly (readonly [address: string, name: string])[]): Buffer {
    const fresh = names.flatMap(([address, name]) => {
      const bytes = parseAddress(address);
      if (bytes === null || named.has(address)) return [];
      named.set(address, name);
      return [[bytes, name] as const];
    });
    return fresh.length === 0 ? NOTHING : nameResolution(fresh);
  }

  function write(face: number, packets: readonly Packet[]): Buffer {
    tally.packets += packets.length;
    return Buffer.concat(packets.map(({ time, bytes, length, comments }) => enhancedPacket(face, time, bytes, length, comments)));
  }

  function opened(stream: string, line: Extract<RecordingLine, { type: "opened" }>): Buffer {
    const face = faces.get(line.flow.podUid);
    const tuple = tupleOf(line.flow);
    const talk = conversation(line, numbers.get(tuple)?.numbers ?? null);
    if (face === undefined || talk === null) return NOTHING;
    tally.connections++;
    const shared = numbers.get(tuple);
    if (shared === undefined) numbers.set(tuple, { numbers: talk.numbers, users: 1 });
    else shared.users++;
    open.set(`${stream} ${line.connection}`, { talk, face: face.index, tuple });
    return Buffer.concat([tell(namesOf(line.flow)), write(face.index, talk.begin(BigInt(line.time)))]);
  }

  function closed(stream: string, line: Extract<RecordingLine, { type: "closed" }>): Buffer {
    const key = `${stream} ${line.connection}`;
    const one = open.get(key);
    if (one === undefined) {
      const face = faces.get(line.flow.podUid);
      const refused = refusal(line);
      if (face === undefined || refused === null) return NOTHING;
      tally.connections++;
      return Buffer.concat([tell(namesOf(line.flow)), write(face.index, refused.packets)]);
    }
    open.delete(key);
    const shared = numbers.get(one.tuple);
    if (shared !== undefined && --shared.users === 0) numbers.delete(one.tuple);
    return write(one.face, one.talk.closed(line));
  }

  function take(stream: string, line: RecordingLine): Buffer {
    switch (line.type) {
      case "began":
        return begin(stream, line.pods);
      case "opened":
        return opened(stream, line);
      case "closed":
        return closed(stream, line);
      case "chunk":
      case "fin": {
        const one = open.get(`${stream} ${line.connection}`);
        if (one === undefined) return NOTHING;
        if (line.type === "chunk") tally.bytes += line.length;
        return write(one.face, line.type === "chunk" ? one.talk.chunk(line) : one.talk.fin(line));
      }
      case "lost": {
        tally.lostBytes += line.bytes;
        tally.lostConnections += line.connections;
        // Which of a node's pods lost them is not told.
        const face = [...faces.values()].find((each) => each.stream === stream);
        if (face !== undefined) face.lost += line.connections;
        return NOTHING;
      }
      case "malformed":
      case "ended":
        return NOTHING;
    }
  }

  return {
    tally,
    start: () => sectionHeader(application, comment),
    take,
    finish: (time) => Buffer.concat([...faces.values()].map(({ index, lost }) => interfaceStatistics(index, time, lost))),
  };
}

const tupleOf = ({ source, destination }: FlowRecord): string =>
  `${source.address} ${source.port} ${destination.address} ${destination.port}`;

/** A client dials the address of a service, or a pod's own; what arrives at a pod is its own. */
function namesOf({ source, destination, service, direction }: FlowRecord): (readonly [string, string])[] {
  const pod = ({ address, workload, namespace }: FlowRecord["source"]): (readonly [string, string])[] =>
    workload === null || namespace === null ? [] : [[address, `${workload}.${namespace}`]];
  const host = service?.split("/")[1];
  return [...pod(source), ...(direction === "outbound" && host !== undefined ? [[destination.address, host] as const] : pod(destination))];
}
