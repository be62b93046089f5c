// Connections of the policy tests: one prober per client pod, and what each of its connections came to.
import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { PodPlace } from "../../src/lab/api.ts";
import { until } from "../../src/lab/until.ts";
import type { Order, Report } from "./prober.ts";

const PROBER = fileURLToPath(new URL("prober.ts", import.meta.url));

export type Over = { readonly end: string; readonly time: number };

export type Held = {
  /** How it ended, null while it lives. */
  over(): Over | null;
  /** One more echo; false when the connection is over instead. */
  echo(): Promise<boolean>;
};

export type Prober = {
  /** "open", or how it failed. */
  attempt(host: string, port: number): Promise<string>;
  /** Rejects when it cannot be opened. */
  hold(host: string, port: number): Promise<Held>;
};

type Connection = { echoes: number; over: Over | null };

/** Ends with the lab. */
export function startProber(pod: PodPlace): Prober {
  const child: ChildProcess = pod.spawn([process.execPath, PROBER]);
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new Error("the prober has no pipes");
  let errors = "";
  child.stderr?.setEncoding("utf8").on("data", (text) => {
    errors += String(text);
  });
  const connections: Connection[] = [];
  createInterface(stdout).on("line", (line) => {
    const report = JSON.parse(line) as Report;
    const connection = connections[report.id];
    if (connection === undefined) return;
    if (report.event === "echoed") connection.echoes++;
    else connection.over = { end: report.end, time: report.time };
  });

  const order = (it: Order): void => void stdin.write(`${JSON.stringify(it)}\n`);
  const moved = (what: string, connection: Connection, echoes: number): Promise<boolean> =>
    until(
      what,
      () => connection.over !== null || connection.echoes > echoes,
      10_000,
      () => errors,
    ).then(() => connection.echoes > echoes);

  function begin(op: "try" | "hold", host: string, port: number): { readonly id: number; readonly connection: Connection } {
    const connection: Connection = { echoes: 0, over: null };
    const id = connections.push(connection) - 1;
    order({ id, op, host, port });
    return { id, connection };
  }

  return {
    async attempt(host, port) {
      const { connection } = begin("try", host, port);
      const opened = await moved(`${pod.name} reaches ${host} port ${port} or fails`, connection, 0);
      return opened ? "open" : (connection.over?.end ?? "");
    },
    async hold(host, port) {
      const { id, connection } = begin("hold", host, port);
      const opened = await moved(`${pod.name} holds a connection to ${host} port ${port}`, connection, 0);
      if (!opened) throw new Error(`${pod.name} to ${host} port ${port}: ${connection.over?.end}`);
      return {
        over: () => connection.over,
        async echo() {
          if (connection.over !== null) return false;
          const before = connection.echoes;
          order({ id, op: "echo", host, port });
          return moved("an echo", connection, before);
        },
      };
    },
  };
}
