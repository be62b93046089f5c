// New connections while ports are scarce: 25,000 sockets in TIME_WAIT between the same two addresses, as a busy pair of pods has them.
import type { PodPlace } from "../src/lab/api.ts";
import { type Outcome, runLoad, type Size } from "./measure.ts";
import type { Variant } from "./variant.ts";

/** Of 28,232 ports that Linux gives out by itself; a proxy that shows the client's address has only these towards one pod. */
const SOCKETS = { full: 25_000, quick: 1000 } as const;
/** TIME_WAIT lasts 60 s: who makes fewer than 500 connections a second never gets there. */
const FILL_SECONDS = 45;
const SECONDS = { full: "1.2", quick: "0.4" } as const;

export async function measureTimeWait(variant: Variant, size: Size): Promise<Outcome> {
  const started = performance.now();
  for (;;) {
    const missing = SOCKETS[size] - (await mostTimeWait(variant.pods));
    if (missing <= 0) break;
    if (performance.now() - started > FILL_SECONDS * 1000) break; // the figure below tells how many there are
    await runLoad(variant, ["connects", "--at-once", "16", "--count", String(missing)]);
  }
  const sockets = await mostTimeWait(variant.pods);
  const { figures } = await runLoad(variant, ["connects", "--at-once", "1", "--seconds", SECONDS[size]]);
  return {
    measured: [
      { metric: "rate", unit: "1/s", value: figures.operations / figures.seconds },
      { metric: "p99", unit: "µs", value: figures.p99 },
      { metric: "sockets in TIME_WAIT", unit: "", value: sockets },
    ],
    histogram: figures.histogram,
  };
}

/** Who closes first keeps the socket: the pod that has most. */
async function mostTimeWait(pods: readonly PodPlace[]): Promise<number> {
  const counts = await Promise.all(pods.map(async (pod) => /^TCP: .*\btw (\d+)/m.exec(await pod.run(["cat", "/proc/net/sockstat"]))?.[1]));
  return Math.max(...counts.map(Number));
}
