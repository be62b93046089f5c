// Prometheus metrics and readiness on the health address.
import { createServer, type Server } from "node:http";
import { Counter, Gauge, Registry } from "prom-client";
import { metrics as table } from "#contract/tables.ts";
import type { Exported } from "#inspect/export/exporter.ts";
import type { NodeStatus } from "#inspect/status.ts";

export type Metrics = {
  drifted(pod: string): void;
  repaired(result: "done" | "failed"): void;
  forgotten(pod: string): void;
  /** A request of the CNI plugin: captured, passed or the code of a refusal. */
  cni(verb: string, result: string): void;
  bypassed(namespaces: number): void;
  text(): Promise<string>;
};

const PHASES = ["absent", "captured", "ready", "leaving"] as const;

/** Gauges are read from the status when somebody asks, so that they cannot disagree with `trackbed status`. */
/** `installed` is null where there is no CNI plugin to keep in place. */
export function createMetrics(
  status: () => NodeStatus,
  exported: () => readonly Exported[],
  installed: (() => boolean) | null = null,
): Metrics {
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
  const requests = new Counter({ ...named("trackbed_cni_requests_total"), labelNames: ["verb", "result"] });
  const bypassed = new Gauge(named("trackbed_bypassed_namespaces"));
  if (installed !== null)
    new Gauge({
      ...named("trackbed_cni_installed"),
      collect() {
        this.set(installed() ? 1 : 0);
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
  new Counter({
    ...named("trackbed_exported_records_total"),
    labelNames: ["sink"],
    collect() {
      this.reset();
      for (const { sink, taken } of exported()) this.inc({ sink }, taken);
    },
  });
  new Counter({
    ...named("trackbed_export_lost_records_total"),
    labelNames: ["sink", "reason"],
    collect() {
      this.reset();
      for (const { sink, missed, refused } of exported()) {
        this.inc({ sink, reason: "missed" }, missed);
        this.inc({ sink, reason: "refused" }, refused);
      }
    },
  });
  return {
    drifted: (pod) => drift.inc({ pod }),
    repaired: (result) => repairs.inc({ result }),
    // Label sets are bounded by the pods that live.
    forgotten: (pod) => drift.remove({ pod }),
    cni: (verb, result) => requests.inc({ verb, result }),
    bypassed: (namespaces) => bypassed.set(namespaces),
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
