// Memory: of a fresh proxy, of each connection that is open and silent, and of what stays when all are closed.
import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { until } from "../src/lab/until.ts";
import type { Measured, Outcome, Size } from "./measure.ts";
import { program } from "./peer.ts";
import { anonymousMemory, descriptors, largestResident } from "./process.ts";
import type { Variant } from "./variant.ts";

/** In several processes, as a descriptor limit of 20,000 is theirs too. */
const CLIENTS = 3;
/**
 * Of each client. A relay on one node holds two descriptors a connection, and the engine turns the pod with most away at seven eighths of the
 * limit: 8,100 fit.
 */
const CONNECTIONS = { full: { across: 3000, local: 2700 }, quick: { across: 50, local: 50 } } as const;
const OPEN_DEADLINE_MS = 120_000;
/** What an allocator that gives memory back takes to do so. */
const SETTLE_MS = 10_000;
/** "Within 10 %" of before. */
const SETTLED = 1.1;
/** Tunnels stay open when their streams have ended: one for 100 of them at least, a descriptor at either end. */
const KEPT_OPEN = 0.05;
const KIB = 1024;
const MIB = 1024 * 1024;

type Client = { readonly child: ChildProcess; readonly lines: string[] };

export async function measureIdle(variant: Variant, size: Size): Promise<Outcome> {
  const pids = variant.proxies();
  const fresh = { anonymous: anonymousMemory(pids), resident: largestResident(pids), descriptors: descriptors(pids) };
  const each = CONNECTIONS[size][variant.placement];
  const total = CLIENTS * each;
  const clients = Array.from({ length: CLIENTS }, () => open(variant, each));
  const told = (count: number) => (): boolean => {
    const gone = clients.find(({ child }) => child.exitCode !== null);
    if (gone !== undefined) throw new Error(`a client of ${variant.name} ended with ${gone.child.exitCode}`);
    return clients.every(({ lines }) => lines.length >= count);
  };
  await until(`${total} idle connections through ${variant.name}`, told(1), OPEN_DEADLINE_MS);
  const opened = anonymousMemory(pids);
  for (const { child } of clients) child.stdin?.write("\n");
  await until(`${variant.name} answers on every idle connection`, told(2), OPEN_DEADLINE_MS);
  const dead = clients.find(({ lines }) => lines[1] !== `{"alive":${each}}`);
  if (dead !== undefined) throw new Error(`${variant.name}: of ${each} idle connections ${dead.lines[1]}`);
  for (const { child } of clients) child.stdin?.end();
  await until(
    `${variant.name} closed what its clients closed`,
    () => descriptors(pids) <= fresh.descriptors + KEPT_OPEN * total + 10,
    OPEN_DEADLINE_MS,
  );
  const after = await settled(pids, fresh.resident);
  const hops = variant.placement === "across" ? 2 : 1;
  const measured: Measured[] = [
    { metric: "connections", unit: "", value: total },
    { metric: "memory per connection and proxy", unit: "KiB", value: (opened - fresh.anonymous) / total / hops / KIB },
    { metric: "resident before", unit: "MiB", value: fresh.resident / MIB },
    { metric: "resident after closing, of before", unit: "", value: after / fresh.resident },
  ];
  return { measured, histogram: [] };
}

function open({ client, to }: Variant, connections: number): Client {
  const child = client.spawn([program("load"), "idle", to, "--connections", String(connections)]);
  const lines: string[] = [];
  if (child.stdout === null) throw new Error("the load generator has no pipes");
  child.stderr?.pipe(process.stderr);
  createInterface(child.stdout).on("line", (line) => lines.push(line));
  return { child, lines };
}

/** Resident memory once it is back, or what is left of it when time is up: the figure tells how far it is. */
async function settled(pids: readonly number[], before: number): Promise<number> {
  const deadline = performance.now() + SETTLE_MS;
  let now = largestResident(pids);
  const over = (): boolean => {
    now = largestResident(pids);
    return now <= before * SETTLED || performance.now() >= deadline;
  };
  await until("resident memory is back", over, 2 * SETTLE_MS);
  return now;
}
