// What a recording costs the node that makes it: CPU of the engine per byte at full bulk rate in a tunnel, with and without, in turns.
// Run as root: node bench/recording.ts
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { until } from "../src/lab/until.ts";
import { address, LOAD, SERVER_PORT, startTestMesh } from "../test/mesh.ts";
import { fineCpuSeconds } from "./process.ts";

const ROUNDS = 5;
const SECONDS = 2;
const CLI = join(import.meta.dirname, "../src/cli/main.ts");

const mesh = await startTestMesh();
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

type Figures = { readonly perGigabyte: number; readonly gigabytes: number; readonly daemon: number };

async function round(): Promise<Figures> {
  const node = mesh.lab.node("node-a");
  const [engine, daemon] = [node.pidsOf("worker"), node.pidsOf("daemon")];
  const before = [fineCpuSeconds(engine), fineCpuSeconds(daemon)];
  const to = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
  const text = await mesh.lab.pod("app/client").run([LOAD, "bulk", to, "--seconds", `${SECONDS}`], { timeoutMs: 60_000 });
  const gigabytes = (JSON.parse(text) as { bytes: number }).bytes / 1e9;
  const [ofEngine = 0, ofDaemon = 0] = [fineCpuSeconds(engine), fineCpuSeconds(daemon)].map((now, index) => now - (before[index] ?? 0));
  return { perGigabyte: ofEngine / gigabytes, gigabytes, daemon: ofDaemon };
}

async function recorded(): Promise<Figures> {
  const run = mesh.lab.node("node-a").runDirectory;
  const child = spawn(process.execPath, [CLI, "pcap", "pod/app/client", "--run", run, "--bytes", "10GB", "-w", "/dev/null"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let told = "";
  child.stderr.on("data", (bytes) => {
    told += String(bytes);
  });
  await until(
    "it records",
    () => told.includes("or Ctrl-C"),
    10_000,
    () => told,
  );
  const figures = await round();
  child.kill("SIGINT");
  await once(child, "close");
  console.log(told.trim().split("\n").at(-1));
  return figures;
}

try {
  const [off, on]: [Figures[], Figures[]] = [[], []];
  await round(); // the first one also makes the tunnel
  for (let i = 0; i < ROUNDS; i++) {
    off.push(await round());
    on.push(await recorded());
  }
  for (const [name, all] of [
    ["off", off],
    ["on", on],
  ] as const)
    console.log(
      `recording ${name}: engine ${median(all.map(({ perGigabyte }) => perGigabyte)).toFixed(3)} s/GB, daemon ${median(all.map(({ daemon }) => daemon)).toFixed(2)} s in ${SECONDS} s, ${median(all.map(({ gigabytes }) => gigabytes / SECONDS)).toFixed(2)} GB/s`,
    );
  const ratio = median(on.map(({ perGigabyte }) => perGigabyte)) / median(off.map(({ perGigabyte }) => perGigabyte));
  console.log(`engine of the recorded pod: ${((ratio - 1) * 100).toFixed(1)} % more for each byte`);
} finally {
  await mesh.stop();
}
