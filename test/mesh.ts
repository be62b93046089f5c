// The two nodes of the network-namespace tests: a lab on a copy of test/mesh, so that a test may edit its documents, with the load
// generator's sink in every pod that serves.
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Lab, PodPlace } from "../src/lab/api.ts";
import { startLab } from "../src/lab/lab.ts";
import { enterSandbox } from "../src/lab/sandbox.ts";
import { until } from "../src/lab/until.ts";

export const LOAD = fileURLToPath(new URL("../native/target/release/trackbed-load", import.meta.url));
export const SERVER_PORT = 9000;
/** ClusterIP and port of the service `server`. */
export const SERVICE = "10.96.99.10:80";
export const SERVICE_V6 = "[fd96:99::10]:80";

export type TestMesh = {
  readonly lab: Lab;
  /** Writes, or with null removes, a document file of the mesh directory. */
  document(file: string, text: string | null): void;
  stop(): Promise<void>;
};

/** Enters the sandbox, builds the lab and waits until the enrolled pods of node-a and node-b are ready. */
export async function startTestMesh(): Promise<TestMesh> {
  await enterSandbox();
  const mesh = mkdtempSync(join(tmpdir(), "trackbed-test-"));
  cpSync(fileURLToPath(new URL("mesh", import.meta.url)), mesh, { recursive: true });
  const lab = await startLab({ mesh });
  const stop = async (): Promise<void> => {
    await lab.stop();
    rmSync(mesh, { recursive: true, force: true });
  };
  try {
    await lab.startControl();
    await Promise.all(["node-a", "node-b"].map((node) => lab.startNode(node)));
    await lab.ready();
    for (const name of ["app/server", "app/neighbour", "legacy/outsider"]) await serve(lab.pod(name));
  } catch (error) {
    process.stderr.write(`${lab.tailLogs()}\n`);
    await stop();
    throw error;
  }
  const document = (file: string, text: string | null): void =>
    text === null ? rmSync(join(mesh, file), { force: true }) : writeFileSync(join(mesh, file), text);
  return { lab, document, stop };
}

/** The sink on a port of a pod, until the lab ends. */
export async function serve(pod: PodPlace, port = SERVER_PORT): Promise<void> {
  const sink = pod.spawn([LOAD, "serve", `[::]:${port}`]);
  let listening = false;
  sink.stdout?.once("data", () => {
    listening = true;
    sink.stdout?.resume();
  });
  await until(`the sink of ${pod.name} listens`, () => listening);
}

export function address(pod: PodPlace, family: 4 | 6 = 4): string {
  const ip = pod.ips.find((candidate) => candidate.includes(":") === (family === 6));
  if (ip === undefined) throw new Error(`${pod.name} has no IPv${family} address`);
  return ip;
}

export type HeldConnections = {
  /** How many of them still answer an echo. */
  alive(): Promise<number>;
  close(): void;
};

/** Opens connections from a pod and holds them. Resolves once every one has answered an echo. */
export async function hold(pod: PodPlace, to: string, connections: number): Promise<HeldConnections> {
  const child = pod.spawn([LOAD, "idle", to, "--connections", String(connections)]);
  const lines: string[] = [];
  let errors = "";
  if (child.stdout === null || child.stdin === null) throw new Error("the load generator has no pipes");
  createInterface(child.stdout).on("line", (line) => lines.push(line));
  child.stderr?.setEncoding("utf8").on("data", (text) => {
    errors += String(text);
  });
  const next = async (what: string): Promise<Record<string, number>> => {
    const line = await until(
      what,
      () => lines.shift(),
      20_000,
      () => errors,
    );
    return JSON.parse(line) as Record<string, number>;
  };
  const { open } = await next(`${connections} connections from ${pod.name} to ${to}`);
  if (open !== connections) throw new Error(`${open} of ${connections} connections opened`);
  const { stdin } = child;
  return {
    async alive() {
      stdin.write("\n");
      return (await next("an echo on the held connections"))["alive"] ?? 0;
    },
    close: () => void stdin.end(),
  };
}

/** One connection with one echo: how long it took in milliseconds, or how it failed. */
export async function tryConnect(
  pod: PodPlace,
  to: string,
): Promise<{ readonly ok: boolean; readonly ms: number; readonly error: string }> {
  const started = performance.now();
  const { code, stderr } = await pod.exec([LOAD, "idle", to, "--connections", "1"], { input: "", timeoutMs: 10_000 });
  return { ok: code === 0, ms: performance.now() - started, error: stderr.trim() };
}
