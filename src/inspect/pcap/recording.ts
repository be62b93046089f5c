// What people ask of a recording, and the lines that come back: from a daemon's socket to whoever makes a pcapng file of them.
import { z } from "zod";
import { type Recorded, type RecordedBatch, RecordedEnd, RecordingEnd } from "#contract/gen/engine_pb.ts";
import type { RecordOrder } from "#engine/director.ts";
import { parseCidr } from "#mesh/address.ts";
import { meshError } from "#mesh/error.ts";
import { type FlowRecord, readFlow } from "../flow.ts";
import { redactions } from "./redact.ts";

/** The engine's own: native/engine/src/report/recording/filter.rs. */
const NAMED = 256;
/** A recording is made while somebody watches: longer is a mistake, and leaves a pod slower than it should be. */
const LONGEST_MS = 3_600_000;
const MOST_BYTES = 10 * 2 ** 30;
/** Payload of one line: 64 of them are one message from a node to control, whose limit is 4 MiB, and 512 wait there for a reader. */
const LINE_BYTES = 32_768;

const port = z.number().int().min(1).max(65535);
const peer = z.strictObject({
  /** "10.0.0.0/8" or an address. */
  network: z
    .string()
    .refine((text) => parseCidr(text) !== null, "not an address or CIDR block")
    .optional(),
  namespace: z.string().min(1).optional(),
  pod: z.string().min(1).optional(),
});

/** Of a request, and of a question to the whole mesh. */
export const recordingFields = {
  pods: z
    .array(z.strictObject({ namespace: z.string().min(1), name: z.string().min(1) }))
    .min(1)
    .max(NAMED),
  peers: z.array(peer).max(NAMED).default([]),
  ports: z.array(port).max(NAMED).default([]),
  /** Most bytes of what moves at once; 0 = all. */
  snapBytes: z
    .number()
    .int()
    .min(0)
    .max(2 ** 31)
    .default(0),
  limitBytes: z.number().int().min(1).max(MOST_BYTES),
  limitMilliseconds: z.number().int().min(1).max(LONGEST_MS),
  /** What is blanked before it leaves the node. */
  redact: z.array(z.enum(redactions)).max(redactions.length).default(["authorization"]),
  /** Who asks, for the log: told by whoever has made sure of it. */
  by: z.string().min(1).max(256).optional(),
};

const request = z.strictObject(recordingFields);

export type RecordingRequest = z.input<typeof request>;
export type RecordingQuestion = z.output<typeof request>;

export type RecordedPod = {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly node: string;
  readonly addresses: readonly string[];
};

type From = "client" | "server";
/** `connection` is unique among the lines of one answer; `time`: Unix nanoseconds in decimal. */
type Of = { readonly connection: string; readonly time: string };

/** One line of an answer. The first is `began`, the last `ended`. */
export type RecordingLine =
  | { readonly type: "began"; readonly pods: readonly RecordedPod[] }
  /** Bytes that had moved before the connection was taken in. */
  | (Of & { readonly type: "opened"; readonly flow: FlowRecord; readonly sent: number; readonly received: number })
  | (Of & {
      readonly type: "chunk";
      readonly from: From;
      readonly offset: number;
      readonly length: number /** May be less: see snapBytes. */;
      readonly payload: Uint8Array;
    })
  | (Of & { readonly type: "fin"; readonly from: From; readonly offset: number })
  | (Of & { readonly type: "closed"; readonly flow: FlowRecord })
  /** Not copied since the last such line: bytes, and whole connections. */
  | { readonly type: "lost"; readonly bytes: number; readonly connections: number }
  | { readonly type: "malformed"; readonly fault: string }
  | { readonly type: "ended"; readonly why: "bytes" | "time" | "stopped" };

/** Throws E_USAGE with everything that is wrong. */
export function readRequest(body: unknown): RecordingQuestion {
  const parsed = request.safeParse(body);
  if (!parsed.success) throw meshError("E_USAGE", z.prettifyError(parsed.error));
  return parsed.data;
}

export const orderOf = (question: RecordingQuestion, podUids: readonly string[]): RecordOrder => ({
  podUids: [...podUids],
  peers: question.peers.map(({ network, namespace = "", pod = "" }) => {
    const cidr = network === undefined ? null : parseCidr(network);
    return { address: cidr?.address ?? new Uint8Array(), prefixLength: cidr?.length ?? 0, namespace, pod };
  }),
  ports: question.ports,
  snapBytes: question.snapBytes,
  limitBytes: BigInt(question.limitBytes),
  limitMilliseconds: question.limitMilliseconds,
});

const ends = {
  [RecordingEnd.UNSPECIFIED]: null,
  [RecordingEnd.NONE]: null,
  [RecordingEnd.REFUSED]: null,
  [RecordingEnd.BYTES]: "bytes",
  [RecordingEnd.TIME]: "time",
  [RecordingEnd.STOPPED]: "stopped",
} as const;

/** Throws E_RECORDING_REFUSED for one that could not begin. */
export function* linesOf(batch: RecordedBatch): Generator<RecordingLine> {
  if (batch.end === RecordingEnd.REFUSED) throw meshError("E_RECORDING_REFUSED", `the engine does not record: ${batch.reason}`);
  for (const recorded of batch.recorded) yield* linesOfOne(recorded);
  if (batch.lostBytes > 0n || batch.lostConnections > 0n)
    yield { type: "lost", bytes: Number(batch.lostBytes), connections: Number(batch.lostConnections) };
  const why = ends[batch.end as keyof typeof ends];
  if (why != null) yield { type: "ended", why };
}

function* linesOfOne({ connection, time, what }: Recorded): Generator<RecordingLine> {
  const of = { connection: connection.toString(), time: time.toString() };
  switch (what.case) {
    case "opening": {
      const flow = readFlow(what.value.flow);
      if ("fault" in flow) yield { type: "malformed", fault: flow.fault };
      else yield { type: "opened", ...of, flow, sent: Number(what.value.sent), received: Number(what.value.received) };
      return;
    }
    case "chunk": {
      const { from, offset, length, payload } = what.value;
      for (let at = 0; at < length; at += LINE_BYTES) {
        const piece = payload.subarray(at, at + LINE_BYTES);
        const size = Math.min(LINE_BYTES, length - at);
        yield { type: "chunk", ...of, from: sideOf(from), offset: Number(offset) + at, length: size, payload: piece };
      }
      return;
    }
    case "fin":
      yield { type: "fin", ...of, from: sideOf(what.value.from), offset: Number(what.value.offset) };
      return;
    case "closing": {
      const flow = readFlow(what.value);
      yield "fault" in flow ? { type: "malformed", fault: flow.fault } : { type: "closed", ...of, flow };
      return;
    }
    case undefined:
      yield { type: "malformed", fault: "something of a newer contract" };
  }
}

const sideOf = (from: RecordedEnd): From => (from === RecordedEnd.CLIENT ? "client" : "server");
