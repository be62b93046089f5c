// The programs of a crowd: one that serves in every peer and one that holds the connections of every pod.
import { createInterface } from "node:readline";
import { z } from "zod";
import type { Lab } from "../../src/lab/api.ts";
import { until } from "../../src/lab/until.ts";
import { program } from "../peer.ts";
import { netns, PORT, peersOf, type Size } from "./crowd-mesh.ts";

/** 110 pods ask for 200 peers each, some of which answer only when a bound of 10 s is over. */
const OPEN_DEADLINE_MS = 300_000;
const ANSWER_DEADLINE_MS = 120_000;

const openedText = z.object({
  open: z.number(),
  failed: z.record(z.string(), z.number()),
  figures: z.object({ seconds: z.number(), p50: z.number(), p99: z.number(), max: z.number() }),
});
const aliveText = z.object({ alive: z.number() });

export type Opened = z.infer<typeof openedText>;
export type Crowd = {
  readonly opened: Opened;
  /** One echo on each connection: how many live. */
  echo(): Promise<number>;
  close(): Promise<void>;
};

type Talk = {
  readonly write: (text: string) => void;
  readonly next: (what: string, deadlineMs: number) => Promise<string>;
  end(): Promise<void>;
};

function talk(lab: Lab, args: readonly string[]): Talk {
  const child = lab.underlay.spawn([program("load"), ...args]);
  const lines: string[] = [];
  if (child.stdout === null || child.stdin === null) throw new Error("the load generator has no pipes");
  child.stderr?.pipe(process.stderr);
  createInterface(child.stdout).on("line", (line) => lines.push(line));
  const { stdin } = child;
  stdin.on("error", () => stdin.destroy()); // it ended without reading: next() says so
  const ended = (): boolean => child.exitCode !== null || child.signalCode !== null;
  return {
    write: (text) => void stdin.write(text),
    async next(what, deadlineMs) {
      await until(what, () => lines.length > 0 || ended(), deadlineMs);
      const line = lines.shift();
      if (line === undefined)
        throw new Error(`trackbed-load ${args.join(" ")} ended (${child.exitCode ?? child.signalCode}) before: ${what}`);
      return line;
    },
    async end() {
      stdin.end();
      await until(`trackbed-load ${args.join(" ")} has ended`, ended, ANSWER_DEADLINE_MS);
    },
  };
}

/** Lives until the lab ends. */
export async function servePeers(lab: Lab, { peers }: Size): Promise<void> {
  const server = talk(lab, ["hosts", `0.0.0.0:${PORT}`]);
  server.write(`${Array.from({ length: peers }, (_, i) => netns("peer", i)).join("\n")}\n\n`);
  await server.next(`an echo server in ${peers} peers`, ANSWER_DEADLINE_MS);
}

/** Each pod opens a connection to `each` peers. */
export async function openCrowd(lab: Lab, { pods, peers }: Size, each: number): Promise<Crowd> {
  const clients = talk(lab, ["crowd"]);
  const lines = Array.from({ length: pods }, (_, i) => `${netns("pod", i)} ${peersOf(i, each, peers).join(" ")}\n`);
  clients.write(`${lines.join("")}\n`);
  const opened = openedText.parse(JSON.parse(await clients.next(`${pods} pods have tried ${each} peers each`, OPEN_DEADLINE_MS)));
  return {
    opened,
    async echo() {
      clients.write("\n");
      return aliveText.parse(JSON.parse(await clients.next("every connection has answered or not", ANSWER_DEADLINE_MS))).alive;
    },
    close: () => clients.end(),
  };
}
