// Lines of JSON with bytes behind some of them: what a recording copied is many bytes, and travels as they are, not as text.
import type { RecordingLine } from "./pcap/recording.ts";
import type { AnswerLine } from "./question.ts";

/** `behind`: the bytes that stand behind the line, whose member of that name is their number; null without any. */
export type Frame = { readonly json: string; readonly behind: Uint8Array | null };

/** Longer lines than anybody writes: who sends them is not understood, and must not take the reader's memory. */
const LONGEST_LINE = 4 << 20;
/** Far above what one piece of a recording has. */
const MOST_BEHIND = 4 << 20;
const NEWLINE = 10;

export const plainFrame = (json: string): Frame => ({ json, behind: null });

export function frameOf(line: AnswerLine | RecordingLine): Frame {
  const recorded = line.type === "recorded" ? line.line : line;
  if (recorded.type !== "chunk") return plainFrame(JSON.stringify(line));
  const { payload, ...rest } = recorded;
  const named = { ...(line.type === "recorded" ? { ...line, line: rest } : rest), behind: payload.length };
  return { json: JSON.stringify(named), behind: payload };
}

/** Throws where a chunk came without its bytes, as no program of this version sends it. */
export function lineOf<Line extends AnswerLine | RecordingLine>({ json, behind }: Frame): Line {
  const line = JSON.parse(json) as AnswerLine | RecordingLine;
  const recorded = line.type === "recorded" ? line.line : line;
  if (recorded.type !== "chunk") return line as Line;
  if (behind === null) throw new Error("a piece of a recording came without its bytes: it is of another version");
  const { behind: _, ...whole } = { ...recorded, payload: behind } as typeof recorded & { readonly behind?: number };
  return (line.type === "recorded" ? { type: line.type, node: line.node, line: whole } : whole) as Line;
}

/** Empty lines only show that somebody is there. */
export async function* readFrames(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Frame> {
  let held: Buffer[] = [];
  let size = 0;
  /** Bytes that must be there before it is worth looking again. */
  let wanted = 1;
  for await (const piece of stream) {
    held.push(Buffer.from(piece.buffer, piece.byteOffset, piece.length));
    size += piece.length;
    if (size < wanted) continue;
    const all = held.length === 1 && held[0] !== undefined ? held[0] : Buffer.concat(held, size);
    let at = 0;
    wanted = 1;
    for (let end = all.indexOf(NEWLINE, at); end >= 0; end = all.indexOf(NEWLINE, at)) {
      const json = all.toString("utf8", at, end);
      const count = behindOf(json);
      const next = end + 1 + (count ?? 0);
      if (next > all.length) {
        wanted = next - at;
        break;
      }
      at = next;
      if (json !== "") yield { json, behind: count === null ? null : all.subarray(end + 1, at) };
    }
    held = at < all.length ? [all.subarray(at)] : [];
    size = all.length - at;
    if (wanted === 1 && size > LONGEST_LINE) throw new Error(`a line of more than ${LONGEST_LINE} bytes`);
  }
  if (size > 0) throw new Error("the answer broke off in the middle of a line");
}

/** It is the last member of its line. */
const COUNT = /"behind":([0-9]{1,9})\}$/;
const COUNT_CHARACTERS = 24;

function behindOf(json: string): number | null {
  const [, digits] = COUNT.exec(json.slice(-COUNT_CHARACTERS)) ?? [];
  if (digits === undefined) return null;
  const count = Number(digits);
  if (count > MOST_BEHIND) throw new Error(`${count} bytes behind one line`);
  return count;
}
