// Runs inside a pod's namespace: an independent HBONE server that echoes. Credentials as JSON on standard input, one line of JSON per CONNECT.
import { createInterface } from "node:readline";
import { type Credentials, servePeer } from "./peer.ts";

const [line] = await new Promise<string[]>((resolve) => createInterface(process.stdin).once("line", (first) => resolve([first])));
const { host, port, credentials } = JSON.parse(line ?? "{}") as { host: string; port: number; credentials: Credentials };
const server = await servePeer(host, port, credentials, (stream, request) => {
  process.stdout.write(`${JSON.stringify(request)}\n`);
  // The load generator's first byte only chooses the mode: a sink does not echo it.
  stream.once("data", (first: Buffer) => {
    if (first.length > 1) stream.write(first.subarray(1));
    stream.pipe(stream);
  });
});
process.stdout.write(`${JSON.stringify({ listening: server.port })}\n`);
