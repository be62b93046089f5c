// What runs in a pod of the churn: it says who it is to whoever asks, and asks every address in turn who is there.
import { createConnection, createServer, type Socket } from "node:net";
import type { Member, Record } from "./records.ts";

export const PORT = 8080;
/** A refusal comes at once; an address that nobody has answers never. */
const PATIENCE_MS = 1500;
const LINE_BYTES = 1024;
/** All fifteen others are asked within this many rounds of ROUND_MS. */
const ROUND_MS = 200;

/** argv: who we are and whom we ask, as JSON. */
const { me, targets } = JSON.parse(process.argv[2] ?? "") as { me: Member; targets: string[] };
const write = (record: Record): void => void process.stdout.write(`${JSON.stringify(record)}\n`);

const server = createServer((socket) => {
  socket.on("error", () => socket.destroy());
  firstLine(socket).then(
    (line) => {
      write({ kind: "served", at: Date.now(), me, from: JSON.parse(line) as Member });
      socket.end(`${JSON.stringify(me)}\n`);
    },
    () => socket.destroy(), // its client writes down that it was not answered
  );
});
server.listen(PORT, "0.0.0.0");
process.once("SIGTERM", () => process.exit(0));

let turn = Math.floor(Math.random() * targets.length);
setInterval(() => void ask(targets[turn++ % targets.length] ?? ""), ROUND_MS);

async function ask(to: string): Promise<void> {
  const socket = createConnection({ host: to, port: PORT });
  socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error("no answer in time")));
  try {
    socket.write(`${JSON.stringify(me)}\n`);
    const by = JSON.parse(await firstLine(socket)) as Member;
    write({ kind: "reached", at: Date.now(), me, to, by });
  } catch (error) {
    write({ kind: "missed", at: Date.now(), me, to, why: error instanceof Error ? error.message : String(error) });
  } finally {
    socket.destroy();
  }
}

/** By events: leaving an iterator would close the socket before it was answered. */
function firstLine(socket: Socket): Promise<string> {
  let text = "";
  return new Promise((resolve, reject) => {
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      const end = text.indexOf("\n");
      if (end >= 0) resolve(text.slice(0, end));
      else if (text.length > LINE_BYTES) reject(new Error("the line is too long"));
    });
    socket.once("error", reject).once("close", () => reject(new Error("it ended without an answer")));
  });
}
