// What people may ask of nodes and waypoints, and the lines that come back: one language for the admin socket, for control and for the command line.
import { z } from "zod";
import type { FrameCounts } from "#engine/namespace.ts";
import { meshError } from "#mesh/error.ts";
import { parseFilter } from "./filter.ts";
import type { FlowLine } from "./flow.ts";
import type { Counts, EdgeRow } from "./ledger/edge.ts";
import { edgeFields, flowFields } from "./ledger/fields.ts";
import { type RecordingLine, recordingFields } from "./pcap/recording.ts";

/** More lines than this are no answer for people, and a script asks for less at a time. */
const LIMIT = 100_000;
/** What can be grouped by at once. */
const COLUMNS = 12;
const FILTER_CHARACTERS = 4_096;
/** Each is a process and a packet socket for as long as it is watched. */
export const WATCHED_PODS = 16;
export const WATCHED_ADDRESSES = 64;
const LONGEST_WATCH_MS = 30_000;

const common = {
  /** Unix milliseconds; `until` is not part of it. Null: as far as there is something. */
  since: z.number().int().min(0).nullable().default(null),
  until: z.number().int().min(0).nullable().default(null),
  /** See filter.ts; empty: everything. */
  filter: z.string().max(FILTER_CHARACTERS).default(""),
  /** Most lines; how many more there were is told. */
  limit: z.number().int().min(1).max(LIMIT).default(LIMIT),
  /** Only what has one end in one of these. Null: everything. Who asks control does not choose this: it is what he may see. */
  namespaces: z.array(z.string()).min(1).nullable().default(null),
};

/** Each connection and request by itself, the last minutes. */
const flows = z.strictObject({ ...common, about: z.literal("flows"), follow: z.boolean().default(false) });

/** What was counted, for days. */
const edges = z.strictObject({
  ...common,
  about: z.literal("edges"),
  /** Names of fields; null: every edge by itself. */
  by: z.array(z.string()).max(COLUMNS).nullable().default(null),
  /** Seconds of each row's time; 0: the whole range is one row. */
  step: z.number().int().min(0).max(86_400).default(0),
  /** Leave out what the engine at the other end has counted too. */
  once: z.boolean().default(true),
});

/** What goes over connections of pods, from now on, until a limit or until nobody reads any more. */
const recording = z.strictObject({ ...recordingFields, about: z.literal("recording") });

/** What is on the wire of pods: whether what their tunnels carry is TLS, counted for a while from now on. */
const frames = z.strictObject({
  about: z.literal("frames"),
  pods: z
    .array(z.strictObject({ namespace: z.string().min(1), name: z.string().min(1) }))
    .min(1)
    .max(WATCHED_PODS),
  /** Only between these addresses; none: all. */
  between: z
    .array(z.union([z.ipv4(), z.ipv6()]))
    .max(WATCHED_ADDRESSES)
    .default([]),
  milliseconds: z.number().int().min(100).max(LONGEST_WATCH_MS).default(3000),
});

const question = z.discriminatedUnion("about", [flows, edges, recording, frames]);

export type Question = z.output<typeof question>;
export type FlowsQuestion = z.output<typeof flows>;
export type EdgesQuestion = z.output<typeof edges>;
export type FramesQuestion = z.output<typeof frames>;
export type AboutRecording = z.output<typeof recording>;

/** What was counted of all edges that have these values. `failed`: those of `ended` that were refused, failed or were cut. */
export type GroupRow = Counts & {
  readonly time: string;
  readonly seconds: number;
  readonly group: Readonly<Record<string, string | number | boolean | null>>;
  readonly failed: number;
};

/**
 * One line of an answer. `missing`: a node or replica whose part is not in the answer, and why; `cut`: more lines were there than asked for;
 * `answered`: last, who took part.
 */
export type AnswerLine =
  | (FlowLine & { readonly node?: string })
  | ({ readonly type: "edge" } & EdgeRow)
  | ({ readonly type: "group" } & GroupRow)
  | { readonly type: "recorded"; readonly node: string; readonly line: RecordingLine }
  /** `counts` null: from now on everything is looked at. */
  | { readonly type: "frames"; readonly node: string; readonly pod: string; readonly counts: FrameCounts | null }
  | { readonly type: "missing"; readonly node: string; readonly reason: string }
  | { readonly type: "cut"; readonly limit: number }
  | { readonly type: "answered"; readonly nodes: readonly string[] };

/** Checks everything that can be wrong with a question. Throws E_QUESTION. */
export function readQuestion(value: unknown): Question {
  const parsed = question.safeParse(value);
  if (!parsed.success) throw meshError("E_QUESTION", z.prettifyError(parsed.error));
  const asked = parsed.data;
  if (asked.about === "flows") parseFilter(asked.filter, flowFields);
  if (asked.about === "edges") {
    parseFilter(asked.filter, edgeFields);
    for (const name of asked.by ?? [])
      if (!Object.hasOwn(edgeFields, name))
        throw meshError("E_QUESTION", `nothing can be grouped by ${name}; there are ${Object.keys(edgeFields).join(", ")}`);
  }
  return asked;
}
