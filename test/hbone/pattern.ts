// Runs inside a pod's namespace: so many connections at once to an echo, each with a pattern that goes there and comes back, checked byte by
// byte to the end of the stream. Prints how many bytes came back; fails with the first that is another.
import { once } from "node:events";
import { connect } from "node:net";

/** A prime length: nothing that is lost, doubled or swapped lines up again. */
const PERIOD = 1_000_003;
const PIECE = 100_003;

const pattern = Buffer.alloc(PERIOD + PIECE);
let state = 1;
for (let at = 0; at < PERIOD; at++) {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  pattern[at] = state >>> 24;
}
pattern.copy(pattern, PERIOD, 0, PIECE);

/** Bytes of connection `index` from `at` on. */
const piece = (index: number, at: number, length: number): Buffer => {
  const start = (at + index * 4999) % PERIOD;
  return pattern.subarray(start, start + Math.min(length, PIECE));
};

async function echo(host: string, port: number, index: number, total: number): Promise<number> {
  const socket = connect({ host, port });
  await once(socket, "connect");
  let received = 0;
  socket.on("data", (data: Buffer) => {
    for (let at = 0; at < data.length; ) {
      const expected = piece(index, received, data.length - at);
      if (!data.subarray(at, at + expected.length).equals(expected)) throw new Error(`connection ${index}: other bytes behind ${received}`);
      at += expected.length;
      received += expected.length;
    }
  });
  const ended = once(socket, "end");
  socket.write("e"); // the sink's mode: echo
  for (let sent = 0; sent < total; ) {
    const next = piece(index, sent, Math.min(PIECE, total - sent));
    if (!socket.write(next)) await Promise.race([once(socket, "drain"), ended]);
    sent += next.length;
  }
  socket.end();
  await ended;
  if (received !== total) throw new Error(`connection ${index}: ${received} of ${total} bytes came back`);
  return received;
}

const [host = "", port, connections, bytes] = process.argv.slice(2);
const all = await Promise.all(Array.from({ length: Number(connections) }, (_, index) => echo(host, Number(port), index, Number(bytes))));
process.stdout.write(`${all.reduce((sum, count) => sum + count, 0)}\n`);
