// Control's Prometheus metrics, under the names of the shared table.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { metrics as table } from "#contract/tables.ts";

export type Metrics = ReturnType<typeof createMetrics>;

/** A small directory compiles in about a millisecond, 100k pods in ten seconds. */
const COMPILE_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const of = <Name extends keyof typeof table>(name: Name) => ({ name, help: table[name].help, registers: [registry] });
  return {
    registry,
    documents: new Gauge({ ...of("trackbed_documents"), labelNames: ["kind", "result"] }),
    compileSeconds: new Histogram({ ...of("trackbed_compile_seconds"), buckets: COMPILE_BUCKETS }),
    streams: new Gauge(of("trackbed_xds_streams")),
    waypointStreams: new Gauge(of("trackbed_waypoint_streams")),
    pushes: new Counter({ ...of("trackbed_xds_pushes_total"), labelNames: ["type"] }),
    nacks: new Counter({ ...of("trackbed_xds_nacks_total"), labelNames: ["type"] }),
    issued: new Counter(of("trackbed_certificates_issued_total")),
    refused: new Counter({ ...of("trackbed_certificates_refused_total"), labelNames: ["code"] }),
    apiAge: new Gauge({ ...of("trackbed_api_age_seconds"), labelNames: ["resource"] }),
    apiRestarts: new Counter({ ...of("trackbed_api_restarts_total"), labelNames: ["resource", "cause"] }),
    statusWrites: new Counter({ ...of("trackbed_status_writes_total"), labelNames: ["kind", "result"] }),
    statusPending: new Gauge(of("trackbed_status_pending")),
    leader: new Gauge(of("trackbed_leader")),
    expirySeconds: new Gauge({ ...of("trackbed_certificate_expiry_seconds"), labelNames: ["kind"] }),
  };
}
