// Runs inside a pod: says "ready", and on a line of input opens connections to a sink at once. Prints how long each took from connect to
// its echo, in milliseconds, or how it failed: measured here, so that starting a process does not count. Ends with its input.
// Arguments: host, port, connections.
import { connect } from "node:net";
import { createInterface } from "node:readline";

export type Knock = { readonly ms: number; readonly error: string | null };

const ANSWER_MS = 10_000;
const [host = "", port = "", connections = ""] = process.argv.slice(2);

function knock(): Promise<Knock> {
  const begun = performance.now();
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port) }, () => socket.write("ex"));
    const end = (error: string | null): void => {
      resolve({ ms: performance.now() - begun, error });
      socket.destroy();
    };
    socket.setTimeout(ANSWER_MS, () => end("no answer"));
    socket.once("data", (echo) => end(String(echo) === "x" ? null : `another echo: ${echo}`));
    socket.once("error", ({ message }) => end(message));
    socket.once("close", () => end("closed without an answer"));
  });
}

createInterface(process.stdin).once("line", async () => {
  const knocks = await Promise.all(Array.from({ length: Number(connections) }, knock));
  process.stdout.write(`${JSON.stringify(knocks)}\n`);
});
process.stdout.write("ready\n");
