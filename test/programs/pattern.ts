// Bytes that both ends of a connection can make by themselves: no two nearby positions look alike, so a lost or doubled piece is seen.
import { createCipheriv } from "node:crypto";

// No multiple of any buffer size: a piece that is missing never lines up again.
const PERIOD = 1_000_003;

export function pattern(seed: number): {
  /** At most `most` bytes of the pattern from offset `at` on, at least one. */
  slice(at: number, most: number): Buffer;
  /** Offset in the stream of the first byte of `chunk`, found at offset `at`, that is not the pattern's. */
  mismatch(chunk: Buffer, at: number): number | null;
} {
  const key = Buffer.alloc(16, seed);
  const block = createCipheriv("aes-128-ctr", key, key).update(Buffer.alloc(PERIOD));
  const slice = (at: number, most: number): Buffer => block.subarray(at % PERIOD, Math.min(PERIOD, (at % PERIOD) + most));
  function mismatch(chunk: Buffer, at: number): number | null {
    for (let done = 0; done < chunk.length; ) {
      const expected = slice(at + done, chunk.length - done);
      const found = chunk.subarray(done, done + expected.length);
      if (!found.equals(expected)) return at + done + found.findIndex((byte, index) => byte !== expected[index]);
      done += expected.length;
    }
    return null;
  }
  return { slice, mismatch };
}
