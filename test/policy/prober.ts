// Runs inside a pod's namespace: opens connections to the sink on request and says what became of each, as one JSON line per event.
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";

/** `try` is one echo and the end; `hold` stays open after its echo until somebody else ends it; `echo` asks a held connection for one more. */
export type Order = { readonly id: number; readonly op: "try" | "hold" | "echo"; readonly host: string; readonly port: number };

/** `time` is Date.now(): all pods are on one machine. `end` is FIN or the code of a socket error. */
export type Report =
  | { readonly id: number; readonly event: "echoed" }
  | { readonly id: number; readonly event: "over"; readonly end: string; readonly time: number };

/** First byte of the sink's protocol. */
const ECHO = "e";
/** Longer than a connection may be held for identity and policy. */
const DEADLINE_MS = 7000;

const held = new Map<number, Socket>();
const say = (report: Report): void => void process.stdout.write(`${JSON.stringify(report)}\n`);

function open({ id, op, host, port }: Order): void {
  const socket = connect({ host, port });
  let end = "FIN";
  socket.setTimeout(DEADLINE_MS, () => {
    end = "SILENCE";
    socket.destroy();
  });
  socket.once("connect", () => socket.write(`${ECHO}x`));
  socket.on("data", () => {
    say({ id, event: "echoed" });
    socket.setTimeout(0);
    if (op === "try") socket.destroy();
    else held.set(id, socket);
  });
  socket.once("error", (error: NodeJS.ErrnoException) => {
    end = error.code ?? error.message;
  });
  socket.once("close", () => {
    held.delete(id);
    say({ id, event: "over", end, time: Date.now() });
  });
}

createInterface(process.stdin)
  .on("line", (line) => {
    const order = JSON.parse(line) as Order;
    if (order.op === "echo") held.get(order.id)?.write("x");
    else open(order);
  })
  .on("close", () => process.exit(0));
