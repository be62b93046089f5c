// Prometheus metrics and readiness on the health address.
import { createServer, type Server } from "node:http";
import { Counter, Gauge, Registry } from "prom-client";
import { metrics as table } from "#contract/tables.ts";
import type { NodeStatus } from "#inspect/status.ts";

export type Metrics = {
  drifted(pod: string): void;
  repaired(result: "done" | "failed"): void;
  forgotten(pod: string): void;
  text(): Promise<string>;
};

const PHASES = ["absent", "captured", "ready", "leaving"] as const;

/** Gauges are read from the status when somebody asks, so that they cannot disagree with `trackbed status`. */
export function createMetrics(status: () => NodeStatus): Metrics {
  const registry = new Registry();
  const named = <N extends string>(name: keyof typeof table & N) => ({ name, help: table[name].help, registers: [registry] });
  const drift = new Counter({ ...named("trackbed_drift_total"), labelNames: ["pod"] });
  const repairs = new Counter({ ...named("trackbed_repairs_total"), labelNames: ["result"] });
  new Gauge({
    ...named("trackbed_pods"),
    labelNames: ["phase"],
    collect() {
      const { pods } = status();
      for (const phase of PHASES)
        this.set({ phase }, pods.filter((pod) => pod.phase === phase && (phase !== "absent" || pod.desired === "enrolled")).length);
    },
  });
  new Gauge({
    ...named("trackbed_pods_unproven"),
    collect() {
      this.set(status().pods.filter(({ desired, phase }) => desired === "enrolled" && phase !== "ready").length);
    },
  });
  new Gauge({
    ...named("trackbed_state_generation"),
    collect() {
      this.set(Number(status().engine.acknowledged));
    },
  });
  const dropped = new Counter({
    ...named("trackbed_flows_dropped_total"),
    collect() {
      this.reset();
      this.inc(status().flows.droppedByEngine);
    },
  });
  dropped.inc(0);
  return {
    drifted: (pod) => drift.inc({ pod }),
    repaired: (result) => repairs.inc({ result }),
    // Label sets are bounded by the pods that live.
    forgotten: (pod) => drift.remove({ pod }),
    text: () => registry.metrics(),
  };
}

export function healthServer(ready: () => readonly string[], metrics: () => Promise<string>, failed: (error: unknown) => void): Server {
  return createServer((request, response) => {
    const plain = (status: number, text: string): void =>
      void response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(text);
    if (request.method !== "GET") plain(405, "GET is needed\n");
    else if (request.url === "/healthz/ready") {
      const missing = ready();
      if (missing.length === 0) plain(200, "ready\n");
      else plain(503, `not ready: ${missing.join("; ")}\n`);
    } else if (request.url === "/metrics") {
      metrics().then(
        (text) => plain(200, text),
        (error: unknown) => {
          failed(error);
          plain(500, "metrics could not be collected\n");
        },
      );
    } else plain(404, "/healthz/ready and /metrics are here\n");
  });
}
