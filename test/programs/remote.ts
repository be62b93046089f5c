// The test's end of an agent in a pod: sockets and queries of that pod as values, every wait with a deadline.
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { PodPlace } from "../../src/lab/api.ts";
import { until } from "../../src/lab/until.ts";
import type { Commands, Name, Read } from "./agent.ts";
import type { Answer, Query } from "./query.ts";

const AGENT = fileURLToPath(new URL("agent.ts", import.meta.url));
const LIMIT_MS = 15_000;

export type RemoteSocket = {
  /** The peer's address for an accepted socket, our own for a connected one. */
  readonly address: string;
  readonly port: number;
  write(text: string): Promise<unknown>;
  finish(): Promise<unknown>;
  reset(): Promise<unknown>;
  pause(): Promise<unknown>;
  resume(): Promise<unknown>;
  read(bytes?: number): Promise<Read>;
  send(bytes: number, seed: number): Promise<unknown>;
  check(bytes: number, seed: number): Promise<number | null>;
};

export type Agent = {
  readonly pod: PodPlace;
  listen(port: number): Promise<unknown>;
  accept(port: number): Promise<RemoteSocket>;
  connect(host: string, port: number, localPort?: number): Promise<RemoteSocket>;
  /** How a connection ends to which the client says nothing: the error's code of connecting, or how the open connection ended. */
  fate(host: string, port: number): Promise<string>;
  query(query: Query): Promise<Answer>;
};

export async function startAgent(pod: PodPlace): Promise<Agent> {
  const child = pod.spawn([process.execPath, AGENT]);
  const waiting = new Map<number, (reply: { value?: unknown; failed?: string }) => void>();
  let up = false;
  let last = 0;
  let log = "";
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null) throw new Error("the agent has no pipes");
  stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  createInterface(stdout).on("line", (line) => {
    if (!up) {
      up = true;
      return;
    }
    const reply = JSON.parse(line) as { id: number; value?: unknown; failed?: string };
    waiting.get(reply.id)?.(reply);
    waiting.delete(reply.id);
  });
  await until(
    `the agent of ${pod.name} runs`,
    () => up,
    LIMIT_MS,
    () => log,
  );

  function call<N extends Name>(name: N, command: Commands[N][0]): Promise<Commands[N][1]> {
    const id = ++last;
    const what = `${pod.name}: ${name} ${JSON.stringify(command)}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`not within ${LIMIT_MS} ms: ${what}\n${log}`)), LIMIT_MS);
      waiting.set(id, ({ value, failed }) => {
        clearTimeout(timer);
        if (failed !== undefined) reject(new Error(`${what}: ${failed}`));
        else resolve(value as Commands[N][1]);
      });
      stdin?.write(`${JSON.stringify({ id, name, command })}\n`);
    });
  }

  const remote = ({ socket, address, port }: { socket: number; address: string; port: number }): RemoteSocket => ({
    address,
    port,
    write: (text) => call("write", { socket, text }),
    finish: () => call("finish", { socket }),
    reset: () => call("reset", { socket }),
    pause: () => call("pause", { socket }),
    resume: () => call("resume", { socket }),
    read: (bytes) => call("read", { socket, ...(bytes === undefined ? {} : { bytes }) }),
    send: (bytes, seed) => call("send", { socket, bytes, seed }),
    check: (bytes, seed) => call("check", { socket, bytes, seed }),
  });

  return {
    pod,
    listen: (port) => call("listen", { port }),
    accept: async (port) => remote(await call("accept", { port })),
    async connect(host, port, localPort) {
      const opened = await call("connect", { host, port, ...(localPort === undefined ? {} : { localPort }) });
      if ("error" in opened) throw new Error(`${pod.name} to ${host} port ${port}: ${opened.error}`);
      return remote(opened);
    },
    async fate(host, port) {
      const opened = await call("connect", { host, port });
      if ("error" in opened) return opened.error;
      const { end } = await call("read", { socket: opened.socket });
      await call("reset", { socket: opened.socket });
      return end;
    },
    query: (query) => call("query", query),
  };
}
