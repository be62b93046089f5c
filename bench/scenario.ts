// What is measured: each scenario is a run of the load generator and the figures taken from it, or a measurement of its own.
import { measureIdle } from "./idle.ts";
import { type Cpu, type Figures, type Measured, type Outcome, runLoad, type Size } from "./measure.ts";
import { largestResident } from "./process.ts";
import { measureTimeWait } from "./timewait.ts";
import { carriers, type Placement, routers, type Variant, type VariantName } from "./variant.ts";

export type Scenario = {
  readonly id: string;
  readonly name: string;
  /** Which variants say something here. */
  readonly variants: readonly VariantName[];
  readonly placements: readonly Placement[] | null;
  /** Once, before the rounds, while every process is fresh; otherwise in each round. */
  readonly once: boolean;
  readonly measure: (variant: Variant, size: Size) => Promise<Outcome>;
};

type Metric = { readonly metric: string; readonly unit: string; readonly of: (figures: Figures, cpu: Cpu) => number };

/** Seconds of a run. CPU ratios settle in one; rates and tails need more. */
const SECONDS = { short: 1.2, open: 2, quick: 0.4 } as const;

const all = (cpu: Cpu): number => cpu.client + cpu.server + cpu.proxies;
const gigabytes = ({ bytes }: Figures): number => bytes / 1e9;

const throughput: Metric = { metric: "throughput", unit: "Gbit/s", of: (f) => (gigabytes(f) * 8) / f.seconds };
const p50: Metric = { metric: "p50", unit: "µs", of: (f) => f.p50 };
const p99: Metric = { metric: "p99", unit: "µs", of: (f) => f.p99 };
const p999: Metric = { metric: "p99.9", unit: "µs", of: (f) => f.p999 };
const rate: Metric = { metric: "rate", unit: "1/s", of: (f) => f.operations / f.seconds };
const perGigabyte: readonly Metric[] = [
  { metric: "CPU", unit: "s/GB", of: (f, cpu) => all(cpu) / gigabytes(f) },
  { metric: "CPU of the proxies", unit: "s/GB", of: (f, cpu) => cpu.proxies / gigabytes(f) },
];
const perRequest: readonly Metric[] = [
  { metric: "CPU", unit: "µs/request", of: (f, cpu) => (all(cpu) / f.operations) * 1e6 },
  { metric: "CPU of the proxies", unit: "µs/request", of: (f, cpu) => (cpu.proxies / f.operations) * 1e6 },
];
const proxyCores: Metric = { metric: "CPU of the proxies", unit: "cores", of: (f, cpu) => cpu.proxies / f.seconds };
const besideCores: Metric = { metric: "CPU of the daemons", unit: "cores", of: (f, cpu) => cpu.beside / f.seconds };
const bulkBeside: Metric = { metric: "bulk throughput", unit: "Gbit/s", of: ({ beside }) => (beside ? throughput.of(beside, noCpu) : 0) };
const noCpu: Cpu = { client: 0, server: 0, proxies: 0, beside: 0 };

/** A waypoint stands where its service's pods are. */
const HTTP = { variants: routers, placements: ["across"] } as const;

/** Of the proxies, with the pages of their programs: what a pod of it takes. */
const resident = (variant: Variant): Measured[] => {
  const bytes = largestResident(variant.proxies());
  return bytes === 0 ? [] : [{ metric: "resident", unit: "MiB", value: bytes / 2 ** 20 }];
};

const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;

function load(
  id: string,
  name: string,
  args: readonly string[],
  full: number,
  metrics: readonly Metric[],
  among: Pick<Scenario, "variants" | "placements"> = { variants: carriers, placements: null },
): Scenario {
  const measure: Scenario["measure"] = async (variant, size) => {
    const seconds = size === "full" ? full : SECONDS.quick;
    const { figures, cpu } = await runLoad(variant, [...args, "--seconds", String(seconds)]);
    const measured: Measured[] = metrics.map(({ metric, unit, of }) => ({ metric, unit, value: of(figures, cpu) }));
    return { measured, histogram: figures.histogram };
  };
  return { id, name, ...among, once: false, measure };
}

const bulk = (streams: number): Scenario =>
  load(`bulk-${streams}`, `bulk, ${plural(streams, "stream")}`, ["bulk", "--streams", `${streams}`], SECONDS.short, [
    throughput,
    ...perGigabyte,
  ]);

const roundTrips = (connections: number): Scenario =>
  load(
    `round-trips-${connections}`,
    `100 B round trips, ${plural(connections, "connection")}`,
    ["round-trips", "--connections", `${connections}`],
    SECONDS.short,
    [p50, p99, ...perRequest],
  );

const connects = (atOnce: number): Scenario =>
  load(
    `connects-${atOnce}`,
    `new connections, ${atOnce === 1 ? "one by one" : `${atOnce} at once`}`,
    ["connects", "--at-once", `${atOnce}`],
    SECONDS.short,
    [rate, ...perRequest, besideCores],
  );

export const scenarios: readonly Scenario[] = [
  {
    id: "idle",
    name: "idle connections",
    // A TLS session for each connection takes the other peers a minute to open 9000.
    variants: ["haproxy", "library", "trackbed"],
    placements: null,
    once: true,
    measure: measureIdle,
  },
  bulk(1),
  bulk(4),
  roundTrips(1),
  roundTrips(16),
  roundTrips(64),
  load("requests", "1000 requests/s of 1 KB, open loop", ["requests", "--rate", "1000"], SECONDS.open, [
    p50,
    p99,
    p999,
    proxyCores,
    besideCores,
  ]),
  load(
    "beside-bulk",
    "500 requests/s beside one bulk stream",
    ["requests", "--rate", "500", "--connections", "8", "--beside-bulk"],
    SECONDS.open,
    [p50, p99, bulkBeside],
  ),
  connects(1),
  connects(16),
  {
    id: "time-wait",
    name: "new connections beside 25,000 in TIME_WAIT",
    variants: ["direct", "haproxy", "trackbed"],
    placements: ["across"],
    once: false,
    measure: measureTimeWait,
  },
  {
    id: "http-idle",
    name: "reverse proxies before the first request",
    ...HTTP,
    once: true,
    measure: async (variant) => ({ measured: resident(variant), histogram: [] }),
  },
  load(
    "http-32",
    "GETs of 100 B over HTTP/1.1, 32 connections",
    ["http", "--connections", "32"],
    SECONDS.short,
    [rate, p50, p99, ...perRequest],
    HTTP,
  ),
  withResident(
    load("http-rate", "1000 GETs/s of 100 B, open loop", ["http", "--rate", "1000"], SECONDS.open, [p50, p99, p999, proxyCores], HTTP),
  ),
];

function withResident(scenario: Scenario): Scenario {
  const measure: Scenario["measure"] = async (variant, size) => {
    const { measured, histogram } = await scenario.measure(variant, size);
    return { measured: [...measured, ...resident(variant)], histogram };
  };
  return { ...scenario, measure };
}
