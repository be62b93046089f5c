// The BackendPolicies of a destination as a waypoint that sends there executes them.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  Algorithm,
  type BackendPortSchema,
  type BackendSettings,
  BackendSettingsSchema,
  type HashKeySchema,
  type HealthCheckSchema,
  type SessionPersistenceSchema,
  SessionType,
} from "#contract/gen/traffic_pb.ts";
import type { BackendPolicy, HashKey, LoadBalancer, SessionPersistence } from "#mesh/traffic.ts";

type WirePort = MessageInitShape<typeof BackendPortSchema>;

/** `byPort`: of a port, the policy that holds there alone; 0: of all others. */
export const compileBackendSettings = (service: string, byPort: ReadonlyMap<number, BackendPolicy>): BackendSettings =>
  create(BackendSettingsSchema, {
    service,
    ports: [...byPort].sort(([a], [b]) => a - b).map(([port, policy]) => portOf(port, policy)),
  });

function portOf(port: number, { loadBalancer, sessionPersistence, healthCheck, circuitBreaker, timeout }: BackendPolicy): WirePort {
  const { maxRequestsPerConnection = 0, ...breaker } = circuitBreaker ?? {};
  return {
    port,
    ...(loadBalancer === null ? {} : { loadBalancer: balancerOf(loadBalancer) }),
    ...(sessionPersistence === null ? {} : { sessionPersistence: sessionOf(sessionPersistence) }),
    ...(healthCheck === null ? {} : { healthCheck: healthOf(healthCheck) }),
    ...(circuitBreaker === null ? {} : { circuitBreaker: breaker }),
    ...(timeout === null && maxRequestsPerConnection === 0
      ? {}
      : {
          connections: {
            connectTimeoutMilliseconds: timeout?.connectMilliseconds ?? 0,
            idleTimeoutMilliseconds: timeout?.idleMilliseconds ?? 0,
            maxConnectionDurationMilliseconds: timeout?.maxConnectionMilliseconds ?? 0,
            maxRequestsPerConnection,
          },
        }),
  };
}

const ALGORITHMS: Readonly<Record<Exclude<LoadBalancer["type"], "ConsistentHash"> | "Maglev" | "RingHash", Algorithm>> = {
  PeakEWMA: Algorithm.PEAK_EWMA,
  RoundRobin: Algorithm.ROUND_ROBIN,
  LeastRequest: Algorithm.LEAST_REQUEST,
  Random: Algorithm.RANDOM,
  Maglev: Algorithm.MAGLEV,
  RingHash: Algorithm.RING_HASH,
};

function balancerOf({ type, consistentHash, slowStart }: LoadBalancer) {
  return {
    algorithm: ALGORITHMS[type === "ConsistentHash" ? (consistentHash?.algorithm ?? "Maglev") : type],
    hash: (consistentHash?.keys ?? []).map(hashKeyOf),
    tableSize: consistentHash?.tableSize ?? 0,
    ...(slowStart === null
      ? {}
      : {
          slowStart: {
            windowMilliseconds: slowStart.windowMilliseconds,
            aggression: slowStart.aggression,
            minWeightPercent: slowStart.minimumPercent,
          },
        }),
  };
}

function hashKeyOf(key: HashKey): MessageInitShape<typeof HashKeySchema> {
  switch (key.type) {
    case "Header":
      return { kind: { case: "header", value: key.name.toLowerCase() } };
    case "QueryParam":
      return { kind: { case: "queryParameter", value: key.name } };
    case "Cookie": {
      const { name, path, attributes, ttlMilliseconds } = key;
      return { kind: { case: "cookie", value: { name, path, ttlMilliseconds: BigInt(ttlMilliseconds), attributes: [...attributes] } } };
    }
    case "SourceIdentity":
      return { kind: { case: "sourceIdentity", value: {} } };
    case "SourceIP":
      return { kind: { case: "sourceAddress", value: {} } };
    case "Hostname":
      return { kind: { case: "hostname", value: {} } };
  }
}

export const sessionOf = ({
  type,
  sessionName,
  absoluteTimeoutMilliseconds,
}: SessionPersistence): MessageInitShape<typeof SessionPersistenceSchema> => ({
  type: type === "Cookie" ? SessionType.COOKIE : SessionType.HEADER,
  sessionName: type === "Header" ? sessionName.toLowerCase() : sessionName,
  absoluteTimeoutMilliseconds: BigInt(absoluteTimeoutMilliseconds),
});

function healthOf({ passive, panicThreshold }: NonNullable<BackendPolicy["healthCheck"]>): MessageInitShape<typeof HealthCheckSchema> {
  if (passive === null) return { panicThresholdPercent: panicThreshold };
  const { successRate } = passive;
  return {
    consecutive5xxErrors: passive.consecutive5XxErrors,
    consecutiveGatewayErrors: passive.consecutiveGatewayErrors,
    consecutiveLocalOriginErrors: passive.consecutiveLocalOriginFailures,
    splitExternalLocalOriginErrors: passive.splitExternalLocalOriginErrors,
    ...(successRate === null
      ? {}
      : {
          successRate: {
            minimumHosts: successRate.minimumHosts,
            requestVolume: successRate.requestVolume,
            stdevFactorThousandths: Math.round(successRate.standardDeviationFactor * 1000),
          },
        }),
    intervalMilliseconds: passive.intervalMilliseconds,
    baseEjectionMilliseconds: passive.baseEjectionMilliseconds,
    maxEjectionMilliseconds: passive.maxEjectionMilliseconds,
    maxEjectionPercent: passive.maxEjectionPercent,
    panicThresholdPercent: panicThreshold,
  };
}
