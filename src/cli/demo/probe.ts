// Runs inside a pod: a new connection every few milliseconds for a while, and what became of each. Prints one line of JSON.
// Arguments: host, port, milliseconds. Each connection asks for /ready by HTTP and is served when "200" comes back.
import { lookup } from "node:dns/promises";
import { connect } from "node:net";
import { setTimeout as pause } from "node:timers/promises";

export type Probe = {
  served: number;
  /** Never accepted. */
  refused: number;
  /** Accepted, and cut before the answer. */
  broken: number;
  /** From connect to answer, the slowest of those that were served. */
  slowestMs: number;
};

const EVERY_MS = 10;
const ANSWER_MS = 5000;
const [host = "", port = "", milliseconds = ""] = process.argv.slice(2);
// Once: a question that the dying worker had read is asked again by the resolver only after its own five seconds.
const { address } = await lookup(host);
const result: Probe = { served: 0, refused: 0, broken: 0, slowestMs: 0 };

function once(): Promise<void> {
  const begun = performance.now();
  return new Promise((resolve) => {
    let [accepted, answered] = [false, false];
    const socket = connect({ host: address, port: Number(port) });
    socket.setTimeout(ANSWER_MS, () => socket.destroy());
    socket.once("connect", () => {
      accepted = true;
      socket.write(`GET /ready HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    });
    socket.on("data", (chunk) => {
      if (answered || !chunk.toString("latin1").startsWith("HTTP/1.1 200")) return;
      answered = true;
      result.slowestMs = Math.max(result.slowestMs, Math.round(performance.now() - begun));
    });
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      if (answered) result.served++;
      else if (accepted) result.broken++;
      else result.refused++;
      resolve();
    });
  });
}

const open: Promise<void>[] = [];
for (const end = performance.now() + Number(milliseconds); performance.now() < end; await pause(EVERY_MS)) open.push(once());
await Promise.all(open);
console.log(JSON.stringify(result));
