// What a node's engine holds and has spent, and what control has: from /proc and from their metrics.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type metrics as names, ports } from "#contract/tables.ts";
import type { Lab } from "../../src/lab/api.ts";
import { anonymousMemory, cpuSeconds, descriptors, largestResident } from "../process.ts";

export type NodeFigures = {
  /** Of the worker, which carries everything. */
  readonly worker: number;
  readonly descriptors: number;
  readonly limit: number;
  readonly anonymousMiB: number;
  readonly residentMiB: number;
  readonly cpuSeconds: number;
  readonly daemonCpuSeconds: number;
  readonly connections: number;
  readonly clientTunnels: number;
  readonly serverTunnels: number;
  readonly shed: number;
  readonly acceptPauses: number;
  readonly tunnelsRefused: number;
  /** What a scrape of its metrics comes to: ASCII. */
  readonly scrapeMiB: number;
};

const MIB = 1024 * 1024;

export async function nodeFigures(lab: Lab, name: string): Promise<NodeFigures> {
  const node = lab.node(name);
  const [worker] = node.pidsOf("worker");
  if (worker === undefined) throw new Error(`node ${name} has no worker`);
  const scrape = join(node.runDirectory, "scrape.txt");
  await node.run(["curl", "-sS", "--max-time", "10", "-o", scrape, `http://127.0.0.1:${ports.engineMetrics}/metrics`]);
  const text = readFileSync(scrape, "utf8");
  return {
    worker,
    descriptors: descriptors([worker]),
    limit: Number(/^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${worker}/limits`, "latin1"))?.[1]),
    anonymousMiB: anonymousMemory([worker]) / MIB,
    residentMiB: largestResident([worker]) / MIB,
    cpuSeconds: cpuSeconds([worker, ...node.pidsOf("engine")]),
    daemonCpuSeconds: cpuSeconds(node.pidsOf("daemon")),
    connections: sample(text, "trackbed_connections"),
    clientTunnels: sample(text, "trackbed_tunnels", '{role="client"}'),
    serverTunnels: sample(text, "trackbed_tunnels", '{role="server"}'),
    shed: sample(text, "trackbed_connections_shed_total"),
    acceptPauses: sample(text, "trackbed_accept_pauses_total"),
    scrapeMiB: text.length / MIB,
    tunnelsRefused: sample(text, "trackbed_tunnels_refused_total"),
  };
}

export type ControlFigures = { readonly cpuSeconds: number; readonly issued: number; readonly refused: number };

export async function controlFigures(lab: Lab): Promise<ControlFigures> {
  const text = await lab.underlay.run(["curl", "-sS", "--max-time", "10", `http://127.0.0.1:${ports.controlHealth}/metrics`]);
  return { cpuSeconds: cpuSeconds(controls()), issued: sample(text, "trackbed_certificates_issued_total"), refused: refusals(text) };
}

/** One sample; a metric that is not there yet is an error, or a figure of 0 could mean that its name has changed. */
function sample(text: string, name: keyof typeof names, labels = ""): number {
  const line = text.split("\n").find((each) => each.startsWith(`${name}${labels} `));
  if (line === undefined) throw new Error(`no sample of ${name}${labels}`);
  return Number(line.slice(line.lastIndexOf(" ")));
}

/** By code: none is there before the first. */
function refusals(text: string): number {
  const lines = text.split("\n").filter((line) => line.startsWith("trackbed_certificates_refused_total{"));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** The lab has one, and its own process ids. */
const controls = (): number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => argv(pid)[1]?.endsWith("src/control/main.ts") === true);

function argv(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0");
  } catch {
    return []; // ended while we looked
  }
}
