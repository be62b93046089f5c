// A watch's bytes as whole lines: characters split over chunks are joined, half a line at the end is no line, and no line grows without end.

/** etcd keeps no object above 1.5 MB; as JSON with managed fields that is below this. */
export const LINE_BYTES = 8 * 2 ** 20;

const NEWLINE = 0x0a;

/** Yields the lines of each chunk together, so that what arrived in one moment can be applied in one. */
export async function* lines(body: AsyncIterable<Buffer>, most: number = LINE_BYTES): AsyncGenerator<readonly string[]> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  for await (const chunk of body) {
    const whole: string[] = [];
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      const line = chunk.subarray(from, end);
      if (restBytes + line.length > most) throw new RangeError(`a line of the watch is longer than ${most} bytes`);
      whole.push(restBytes === 0 ? line.toString("utf8") : Buffer.concat([...rest, line]).toString("utf8"));
      rest = [];
      restBytes = 0;
      from = end + 1;
    }
    if (from < chunk.length) {
      rest.push(chunk.subarray(from));
      restBytes += chunk.length - from;
      if (restBytes > most) throw new RangeError(`a line of the watch is longer than ${most} bytes`);
    }
    yield whole; // also when it is empty: bytes came, so the server lives
  }
}
