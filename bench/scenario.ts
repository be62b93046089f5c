// What is measured: each scenario is one run of the load generator and the figures taken from it.
import { z } from "zod";

export const figures = z.object({
  seconds: z.number(),
  cpu_seconds: z.number(),
  bytes: z.number(),
  operations: z.number(),
  p50: z.number(),
  p99: z.number(),
  max: z.number(),
});

export type Figures = z.infer<typeof figures>;

/** CPU seconds that a run cost, by who spent them. */
export type Cpu = { readonly client: number; readonly server: number; readonly proxies: number };

export type Metric = {
  readonly name: string;
  readonly unit: string;
  /** Whether a smaller figure is better: only for reading the table. */
  readonly lower: boolean;
  readonly of: (figures: Figures, cpu: Cpu) => number;
};

export type Scenario = { readonly name: string; readonly args: (size: Size) => readonly string[]; readonly metrics: readonly Metric[] };

/** `full` for figures, `quick` to see that the bench works. */
export type Size = "full" | "quick";

const all = (cpu: Cpu): number => cpu.client + cpu.server + cpu.proxies;
const throughput: Metric = { name: "throughput", unit: "Gbit/s", lower: false, of: (f) => (f.bytes * 8) / f.seconds / 1e9 };
const cpuPerGigabyte: Metric = { name: "CPU", unit: "s/GB", lower: true, of: (f, cpu) => all(cpu) / (f.bytes / 1e9) };
const p50: Metric = { name: "p50", unit: "µs", lower: true, of: (f) => f.p50 };
const p99: Metric = { name: "p99", unit: "µs", lower: true, of: (f) => f.p99 };
const cpuPerRequest: Metric = { name: "CPU", unit: "µs/request", lower: true, of: (f, cpu) => (all(cpu) / f.operations) * 1e6 };
const proxiesPerGigabyte: Metric = { name: "CPU of the proxies", unit: "s/GB", lower: true, of: (f, cpu) => cpu.proxies / (f.bytes / 1e9) };
const proxiesPerRequest: Metric = {
  name: "CPU of the proxies",
  unit: "µs/request",
  lower: true,
  of: (f, cpu) => (cpu.proxies / f.operations) * 1e6,
};
const rate: Metric = { name: "rate", unit: "1/s", lower: false, of: (f) => f.operations / f.seconds };

const bulk = (streams: number): Scenario => ({
  name: `bulk, ${streams} ${streams === 1 ? "stream" : "streams"}`,
  args: (size) => ["bulk", "--streams", String(streams), "--bytes", String((size === "full" ? 2e9 : 5e7) / streams)],
  metrics: [throughput, cpuPerGigabyte, proxiesPerGigabyte],
});

const roundTrips = (connections: number): Scenario => ({
  name: `100 B round trips, ${connections} ${connections === 1 ? "connection" : "connections"}`,
  args: (size) => ["round-trips", "--connections", String(connections), "--seconds", size === "full" ? "3" : "1"],
  metrics: [p50, p99, cpuPerRequest, proxiesPerRequest],
});

const connects = (atOnce: number): Scenario => ({
  name: `new connections, ${atOnce === 1 ? "one by one" : `${atOnce} at once`}`,
  args: (size) => ["connects", "--at-once", String(atOnce), "--seconds", size === "full" ? "3" : "1"],
  metrics: [rate, cpuPerRequest, proxiesPerRequest],
});

export const scenarios: readonly Scenario[] = [bulk(1), bulk(4), roundTrips(1), roundTrips(16), connects(1), connects(16)];
