// What looking costs a node of which nobody asks anything: CPU of engine and daemon for each connection and each byte that leave it, with edges counted
// and kept as usual, with nothing counted (--ledger none), and with every record exported besides. Each round is a lab of its own, in turns.
// Run as root with a release build: node bench/inspection.ts (some two minutes)
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { address, LOAD, SERVER_PORT, startTestMesh } from "../test/mesh.ts";
import { fineCpuSeconds } from "./process.ts";

const ROUNDS = 3;
const CONNECT_SECONDS = 4;
const BULK_SECONDS = 3;
/** Keeps two cores busy with connections and leaves some of them: a node at its limit queues, and that costs all variants alike. */
const AT_ONCE = 4;
const NODE = "node-a";
/** Edges go up every 2 s and are written every 10 s: what the last of them cost is counted too. */
const SETTLE_MS = 2500;
/** Takes everything at once, in the node's own network; its CPU counts for nobody. A byte for each request. */
const COLLECTOR_PORT = 4318;
const COLLECTOR = `require("http").createServer((q, r) => q.resume().once("end", () => { process.stdout.write("."); r.end(); })).listen(${COLLECTOR_PORT}, "127.0.0.1", () => process.stdout.write("!"))`;
const VARIANTS = ["off", "ledger", "ledger and export"] as const;

type Variant = (typeof VARIANTS)[number];
/** CPU seconds. */
type Cost = { readonly engine: number; readonly daemon: number };
type Figures = {
  readonly perConnection: Cost;
  readonly perGigabyte: Cost;
  readonly connectionsPerSecond: number;
  readonly exported: number;
};

const one = process.argv[2];
if (one === undefined) compare();
else console.log(JSON.stringify(await measured(one as Variant)));

/** A process for each: what a lab starts has the environment that it was started with. */
function compare(): void {
  const found = new Map<Variant, Figures[]>(VARIANTS.map((variant) => [variant, []]));
  for (let round = 0; round < ROUNDS; round++)
    for (const variant of round % 2 === 0 ? VARIANTS : VARIANTS.toReversed()) {
      const env = {
        ...process.env,
        ...(variant === "off" ? { TRACKBED_LEDGER: "none" } : {}),
        ...(variant === "ledger and export" ? { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${COLLECTOR_PORT}` } : {}),
      };
      const text = execFileSync(process.execPath, [import.meta.filename, variant], {
        env,
        encoding: "utf8",
        stdio: ["ignore", "pipe", "inherit"],
      });
      found.get(variant)?.push(JSON.parse(text.trim().split("\n").at(-1) ?? "") as Figures);
    }
  const off = found.get("off") ?? [];
  for (const [variant, all] of found) {
    const of = (pick: (figures: Figures) => number, from = all): number => median(from.map(pick));
    const more = (pick: (figures: Figures) => Cost): string => {
      const sum = (from: readonly Figures[]): number => median(from.map((figures) => pick(figures).engine + pick(figures).daemon));
      return `${((sum(all) / sum(off) - 1) * 100).toFixed(1)} %`;
    };
    console.log(
      `${variant}: a connection ${(of(({ perConnection }) => perConnection.engine) * 1e6).toFixed(1)} µs of the engine and ` +
        `${(of(({ perConnection }) => perConnection.daemon) * 1e6).toFixed(1)} µs of the daemon (${more(({ perConnection }) => perConnection)} more than off), ` +
        `a gigabyte ${of(({ perGigabyte }) => perGigabyte.engine).toFixed(3)} s and ${of(({ perGigabyte }) => perGigabyte.daemon).toFixed(3)} s ` +
        `(${more(({ perGigabyte }) => perGigabyte)}); ${of(({ connectionsPerSecond }) => connectionsPerSecond).toFixed(0)} connections a second` +
        (variant === "ledger and export" ? `, ${of(({ exported }) => exported).toFixed(0)} requests to the collector` : ""),
    );
  }
}

async function measured(variant: Variant): Promise<Figures> {
  const mesh = await startTestMesh();
  let exported = 0;
  try {
    if (variant === "ledger and export") {
      const collector = mesh.lab.node(NODE).spawn([process.execPath, "-e", COLLECTOR]);
      if (collector.stdout !== null) await once(collector.stdout, "data");
      collector.stdout?.on("data", (told: Buffer) => {
        exported += told.length;
      });
    }
    const to = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
    const load = async (...args: string[]): Promise<{ readonly bytes: number; readonly operations: number }> =>
      JSON.parse(await mesh.lab.pod("app/client").run([LOAD, ...args], { timeoutMs: 60_000 })) as { bytes: number; operations: number };
    const connect = (seconds: number) => load("connects", to, "--at-once", `${AT_ONCE}`, "--seconds", `${seconds}`);
    await connect(0.5); // makes the tunnel, and warms what is compiled late
    const node = mesh.lab.node(NODE);
    const cost = async (act: () => Promise<number>): Promise<{ readonly each: Cost; readonly done: number }> => {
      const pids = [node.pidsOf("worker"), node.pidsOf("daemon")];
      const before = pids.map(fineCpuSeconds);
      const done = await act();
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
      const [engine = 0, daemon = 0] = pids.map((of, index) => (fineCpuSeconds(of) - (before[index] ?? 0)) / done);
      return { each: { engine, daemon }, done };
    };
    const connections = await cost(async () => (await connect(CONNECT_SECONDS)).operations);
    const gigabytes = await cost(async () => (await load("bulk", to, "--seconds", `${BULK_SECONDS}`)).bytes / 1e9);
    return {
      perConnection: connections.each,
      perGigabyte: gigabytes.each,
      connectionsPerSecond: connections.done / CONNECT_SECONDS,
      exported,
    };
  } finally {
    await mesh.stop();
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
