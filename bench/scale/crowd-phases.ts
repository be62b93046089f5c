// What is done with a crowd, one phase after the other, and what is found in each.
import { setTimeout as pause } from "node:timers/promises";
import type { Lab } from "../../src/lab/api.ts";
import { tail } from "../../src/lab/place.ts";
import { until } from "../../src/lab/until.ts";
import { openCrowd, servePeers } from "./crowd-load.ts";
import { type Accounts, CROWDED, PEERS, type Size } from "./crowd-mesh.ts";
import { controlFigures, type NodeFigures, nodeFigures } from "./crowd-node.ts";

export type Finding = {
  readonly phase: string;
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  /** What is wrong with it, null when nothing is. */
  readonly fault: string | null;
};

export type Bench = {
  readonly lab: Lab;
  readonly size: Size;
  /** Peers of each pod, so many that all connections fit the limit of descriptors. */
  readonly each: number;
  /** Without the minutes of silence. */
  readonly quick: boolean;
  /** Writes the mesh's documents anew. */
  readonly write: (accounts: Accounts) => void;
  readonly say: (line: string) => void;
  readonly found: (finding: Finding) => void;
};

const START_DEADLINE_MS = 300_000;
const SILENCE_MS = 60_000;
const QUICK_SILENCE_MS = 10_000;
/** Idle tunnels live five minutes, a tenth longer at most. */
const TUNNELS_END_MS = 360_000;
const CLOSE_DEADLINE_MS = 60_000;
/** "Falls back within 10 %", with what an allocator rounds up in a small process. */
const SETTLED = 1.1;
/** The engine brings its gauges up to date once a second. */
const GAUGES_MS = 1500;
const KIB_PER_MIB = 1024;
const MINUTE_MS = 60_000;

export async function measureCrowd(bench: Bench): Promise<void> {
  const { lab, size, say } = bench;
  say("control, and the node of the peers");
  await lab.startControl();
  await lab.startNode(PEERS);
  await lab.ready(START_DEADLINE_MS);
  await servePeers(lab, size);
  await start(bench, "own", `start, ${size.pods} identities`);
  await carry(bench);
  say("the same node again, with one identity for all pods");
  await lab.stopNode(CROWDED);
  bench.write("shared");
  await start(bench, "shared", "start, one identity");
  await exceed(bench);
}

/** From a node without a daemon to every pod ready. */
async function start({ lab, size, found, say }: Bench, accounts: Accounts, phase: string): Promise<void> {
  say(phase);
  const [control, began] = [await controlFigures(lab), performance.now()];
  await lab.startNode(CROWDED);
  await lab.ready(START_DEADLINE_MS);
  const seconds = (performance.now() - began) / 1000;
  const [after, node] = [await controlFigures(lab), await nodeFigures(lab, CROWDED)];
  const issued = after.issued - control.issued;
  const wanted = accounts === "own" ? size.pods : 1;
  const refused = after.refused - control.refused;
  found({ phase, what: "until every pod is ready", value: seconds, unit: "s", fault: null });
  found({ phase, what: "certificates signed", value: issued, unit: "", fault: issued === wanted ? null : `${wanted} were to be signed` });
  found({ phase, what: "certificates refused", value: refused, unit: "", fault: refused === 0 ? null : "none was to be" });
  found({ phase, what: "CPU of control", value: after.cpuSeconds - control.cpuSeconds, unit: "s", fault: null });
  found({ phase, what: "CPU of the daemon", value: node.daemonCpuSeconds, unit: "s", fault: null });
  found({ phase, what: "CPU of the engine", value: node.cpuSeconds, unit: "s", fault: null });
  holdings(found, phase, node);
}

/** What fits: opened, silent, closed. */
async function carry(bench: Bench): Promise<void> {
  const { lab, size, each, found, say } = bench;
  const pairs = size.pods * each;
  const fresh = { [CROWDED]: await nodeFigures(lab, CROWDED), [PEERS]: await nodeFigures(lab, PEERS) };
  say(`${pairs} connections, ${each} of each pod`);
  const crowd = await openCrowd(lab, size, each);
  const { open, figures, failed } = crowd.opened;
  await pause(GAUGES_MS);
  const phase = `${pairs} connections`;
  found({ phase, what: "failed", value: pairs - open, unit: "", fault: open === pairs ? null : JSON.stringify(failed) });
  found({ phase, what: "until all are open", value: figures.seconds, unit: "s", fault: null });
  found({ phase, what: "to open one, p99", value: figures.p99 / 1000, unit: "ms", fault: null });
  for (const name of [CROWDED, PEERS] as const) {
    const [before, now] = [fresh[name], await nodeFigures(lab, name)];
    if (before === undefined) continue;
    const where = `${phase}, ${name}`;
    found({
      phase: where,
      what: "CPU of the engine to open one",
      value: ((now.cpuSeconds - before.cpuSeconds) / pairs) * 1000,
      unit: "ms",
      fault: null,
    });
    holdings(found, where, now);
    const memory = ((now.anonymousMiB - before.anonymousMiB) / pairs) * KIB_PER_MIB;
    found({ phase: where, what: "a scrape of its metrics", value: now.scrapeMiB, unit: "MiB", fault: null });
    found({ phase: where, what: "memory of a connection in a tunnel of its own", value: memory, unit: "KiB", fault: null });
  }

  const silence = bench.quick ? QUICK_SILENCE_MS : SILENCE_MS;
  say(`silence for ${silence / 1000} s`);
  const before = [await nodeFigures(lab, CROWDED), await nodeFigures(lab, PEERS)];
  await pause(silence);
  const after = [await nodeFigures(lab, CROWDED), await nodeFigures(lab, PEERS)];
  for (const [i, name] of [CROWDED, PEERS].entries()) {
    const value = (((after[i]?.cpuSeconds ?? 0) - (before[i]?.cpuSeconds ?? 0)) * MINUTE_MS) / silence;
    found({ phase: `silence, ${name}`, what: "CPU of the engine in a minute", value, unit: "s", fault: null });
  }
  const alive = await crowd.echo();
  found({
    phase: "silence",
    what: "connections that died",
    value: open - alive,
    unit: "",
    fault: alive === open ? null : "none was to die",
  });

  await crowd.close();
  await until("the connections are closed", async () => (await nodeFigures(lab, CROWDED)).connections === 0, CLOSE_DEADLINE_MS);
  if (bench.quick) return;
  say("until the idle tunnels are closed (some 5 minutes)");
  const gone = async (): Promise<boolean> =>
    (await nodeFigures(lab, CROWDED)).clientTunnels + (await nodeFigures(lab, PEERS)).serverTunnels === 0;
  await until("the idle tunnels are closed", gone, TUNNELS_END_MS);
  for (const name of [CROWDED, PEERS] as const) {
    const base = fresh[name]?.residentMiB ?? 0;
    // What is left is a fault, and the finding says how much it is: so no answer in time is one too.
    const settled = async (): Promise<boolean> => (await nodeFigures(lab, name)).residentMiB <= base * SETTLED;
    await until("resident memory is back", settled, 20_000).catch(() => undefined);
    const now = await nodeFigures(lab, name);
    const phase = `after closing, ${name}`;
    holdings(found, phase, now);
    const ratio = now.residentMiB / base;
    found({ phase, what: "resident memory, of before", value: ratio, unit: "", fault: ratio <= SETTLED ? null : `more than ${SETTLED}` });
  }
}

/** Every pod wants every peer: more than there are descriptors for. Who is refused is told, nobody dies, and afterwards all is well. */
async function exceed({ lab, size, each, found, say }: Bench): Promise<void> {
  const pairs = size.pods * size.peers;
  const phase = `${pairs} connections wanted`;
  say(phase);
  const before = { [CROWDED]: (await nodeFigures(lab, CROWDED)).worker, [PEERS]: (await nodeFigures(lab, PEERS)).worker };
  const crowd = await openCrowd(lab, size, size.peers);
  await pause(GAUGES_MS);
  found({ phase, what: "open", value: crowd.opened.open, unit: "", fault: null });
  for (const [reason, count] of Object.entries(crowd.opened.failed)) {
    const told = /reset|refused/i.test(reason);
    found({ phase, what: `refused: ${reason}`, value: count, unit: "", fault: told ? null : "not told to the application" });
  }
  found({ phase, what: "to open one or be refused, max", value: crowd.opened.figures.max / 1e6, unit: "s", fault: null });
  for (const name of [CROWDED, PEERS] as const) {
    const now = await nodeFigures(lab, name);
    const where = `${phase}, ${name}`;
    holdings(found, where, now);
    found({ phase: where, what: "connections shed", value: now.shed, unit: "", fault: null });
    found({ phase: where, what: "accepting paused", value: now.acceptPauses, unit: "times", fault: null });
    found({
      phase: where,
      what: "engines lost",
      value: now.worker === before[name] ? 0 : 1,
      unit: "",
      fault: now.worker === before[name] ? null : "it died",
    });
    for (const line of tail(`${lab.directory}/logs/${name}.log`, 2000)
      .split("\n")
      .filter((text) => text.includes("descriptors"))
      .slice(0, 2))
      say(line);
  }
  const alive = await crowd.echo();
  found({
    phase,
    what: "open ones that died",
    value: crowd.opened.open - alive,
    unit: "",
    fault: alive === crowd.opened.open ? null : "none was to die",
  });
  await crowd.close();
  await until("the connections are closed", async () => (await nodeFigures(lab, CROWDED)).connections === 0, CLOSE_DEADLINE_MS);
  const again = await openCrowd(lab, size, each);
  const failed = size.pods * each - again.opened.open;
  const fault = failed === 0 ? null : JSON.stringify(again.opened.failed);
  found({ phase: "afterwards", what: `of ${size.pods * each} connections failed`, value: failed, unit: "", fault });
  await again.close();
}

function holdings(found: Bench["found"], phase: string, node: NodeFigures): void {
  const few = node.descriptors <= node.limit;
  found({ phase, what: `descriptors of ${node.limit}`, value: node.descriptors, unit: "", fault: few ? null : "over the limit" });
  found({ phase, what: "tunnels", value: node.clientTunnels + node.serverTunnels, unit: "", fault: null });
  found({ phase, what: "resident memory", value: node.residentMiB, unit: "MiB", fault: null });
}
