// Flow records as people and scripts read them: the engine's binary Flow and Event projected to plain JSON, and back to one line of text.
import { fromBinary } from "@bufbuild/protobuf";
import {
  type Audit,
  type CloseBy,
  Direction,
  type Event,
  type Flow,
  type FlowEnd,
  FlowPhase,
  FlowSchema,
  Path,
  type Request,
  Verdict,
} from "#contract/gen/engine_pb.ts";
import { formatAddress } from "#mesh/address.ts";

export type FlowEndpoint = {
  readonly address: string;
  readonly port: number;
  readonly pod: string | null;
  /** What made the pod, such as a Deployment. */
  readonly workload: string | null;
  readonly namespace: string | null;
  /** SPIFFE URI, only when proven. */
  readonly identity: string | null;
  readonly node: string | null;
};

export type FlowRecord = {
  /** Unique per engine instance; the opened and the closed record of one connection share it. */
  readonly id: string;
  readonly phase: "opened" | "closed";
  readonly direction: "outbound" | "inbound";
  readonly path: "relay" | "tunnel" | "plain" | null;
  readonly verdict: "allowed" | "denied" | "failed";
  /** "namespace/name" and rule index of the policy that decided. */
  readonly policy: string | null;
  readonly rule: number | null;
  readonly code: string | null;
  readonly reason: string | null;
  /** RFC 3339 with microseconds. */
  readonly start: string;
  readonly source: FlowEndpoint;
  readonly destination: FlowEndpoint;
  readonly service: string | null;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly connectMicroseconds: number;
  readonly handshakeMicroseconds: number;
  readonly firstByteMicroseconds: number;
  readonly durationMicroseconds: number;
  readonly tls: { readonly version: string; readonly cipher: string; readonly group: string; readonly peerSerial: string } | null;
  /** What the connection spoke, by its first bytes; null while it is open, and when it was nothing that is known. */
  readonly protocol: string | null;
  /** The name that a client of TLS asked for. */
  readonly serverName: string | null;
  readonly closedBy: "client" | "server" | "engine" | null;
  readonly reset: boolean;
  /** Istio's, of a connection that was denied or failed: DENY, TLS_FAILURE, IDENTITY_ERROR or CONNECT. */
  readonly responseFlags: string | null;
  readonly podUid: string;
  /** Of a waypoint: the request whose record this is; null for a connection. */
  readonly request: RequestRecord | null;
  /** What would be if dry-run policies were enforced; null where they would change nothing. */
  readonly audit: AuditRecord | null;
};

export type AuditRecord = {
  readonly verdict: FlowRecord["verdict"];
  readonly policy: string | null;
  readonly rule: number | null;
  readonly code: string | null;
};

export type RequestRecord = {
  readonly method: string;
  readonly authority: string;
  /** Without the query. */
  readonly path: string;
  /** Of the service, as it was addressed; null in records of earlier engines. */
  readonly port: number | null;
  readonly protocol: string;
  /** Null when none was sent. */
  readonly status: number | null;
  readonly grpcStatus: number | null;
  /** Envoy's response flags; empty without any. */
  readonly flags: readonly string[];
  /** "HTTPRoute/namespace/name/index"; null when no rule matched. */
  readonly route: string | null;
  /** "namespace/hostname"; null when it went nowhere. */
  readonly backend: string | null;
  readonly retries: number;
  readonly requestId: string | null;
  readonly traceparent: string | null;
};

export type EngineEvent = {
  readonly time: string;
  readonly level: string;
  readonly code: string | null;
  readonly podUid: string | null;
  readonly message: string;
};

/**
 * One line of GET /v1/flows (application/x-ndjson). `sequence` grows by one per record of this daemon; `dropped` says how many are missing here,
 * `malformed` what is wrong with one that the engine should not have sent.
 */
export type FlowLine =
  | { readonly type: "flow"; readonly sequence: number; readonly flow: FlowRecord }
  | { readonly type: "event"; readonly sequence: number; readonly event: EngineEvent }
  | { readonly type: "malformed"; readonly sequence: number; readonly fault: string }
  | { readonly type: "dropped"; readonly count: number };

const none = (text: string): string | null => (text === "" ? null : text);

/** Nanoseconds since 1970 as RFC 3339 with milliseconds. */
const time = (nanoseconds: bigint): string => new Date(Number(nanoseconds / 1_000_000n)).toISOString();

/** With microseconds, as the durations of a record have them. */
export const fineTime = (nanoseconds: bigint): string =>
  time(nanoseconds).replace("Z", `${String((nanoseconds / 1000n) % 1000n).padStart(3, "0")}Z`);

const directions = { [Direction.UNSPECIFIED]: null, [Direction.OUTBOUND]: "outbound", [Direction.INBOUND]: "inbound" } as const;
const flowPaths = { [Path.UNSPECIFIED]: null, [Path.RELAY]: "relay", [Path.TUNNEL]: "tunnel", [Path.PLAIN]: "plain" } as const;
const verdicts = {
  [Verdict.UNSPECIFIED]: null,
  [Verdict.ALLOWED]: "allowed",
  [Verdict.DENIED]: "denied",
  [Verdict.FAILED]: "failed",
} as const;
const phases = { [FlowPhase.UNSPECIFIED]: null, [FlowPhase.OPENED]: "opened", [FlowPhase.CLOSED]: "closed" } as const;
const closers: readonly FlowRecord["closedBy"][] = [null, "client", "server", "engine"];

/** Undefined: no engine may say so. */
export const pathOf = (path: Path): FlowRecord["path"] | undefined => flowPaths[path as keyof typeof flowPaths];
export const verdictOf = (verdict: Verdict): FlowRecord["verdict"] | undefined => verdicts[verdict as keyof typeof verdicts] ?? undefined;

const closerOf = (by: CloseBy): FlowRecord["closedBy"] => closers[by] ?? null;

function endpoint(end: FlowEnd | undefined): FlowEndpoint {
  return {
    address: end === undefined ? "" : formatAddress(end.address),
    port: end?.port ?? 0,
    pod: none(end?.pod ?? ""),
    workload: none(end?.workload ?? ""),
    namespace: none(end?.namespace ?? ""),
    identity: none(end?.identity ?? ""),
    node: none(end?.node ?? ""),
  };
}

/** What is wrong with a record that no engine may send. */
export type Fault = { readonly fault: string };

/** A record from its encoding in ReportBatch.flows. */
export function readFlow(encoded: Uint8Array): FlowRecord | Fault {
  let flow: Flow;
  try {
    flow = fromBinary(FlowSchema, encoded);
  } catch (error) {
    return { fault: `not a Flow: ${error instanceof Error ? error.message : String(error)}` };
  }
  return project(flow);
}

function project(flow: Flow): FlowRecord | Fault {
  const phase = phases[flow.phase as keyof typeof phases];
  const direction = directions[flow.direction as keyof typeof directions];
  const [verdict, path] = [verdictOf(flow.verdict), pathOf(flow.path)];
  if (!phase) return { fault: `unknown phase ${flow.phase}` };
  if (!direction) return { fault: `unknown direction ${flow.direction}` };
  if (!verdict) return { fault: `unknown verdict ${flow.verdict}` };
  if (path === undefined) return { fault: `unknown path ${flow.path}` };
  return {
    id: flow.id.toString(),
    phase,
    direction,
    path,
    verdict,
    policy: none(flow.policy),
    rule: flow.policy === "" ? null : flow.rule,
    code: none(flow.code),
    reason: none(flow.reason),
    start: fineTime(flow.start),
    source: endpoint(flow.source),
    destination: endpoint(flow.destination),
    service: none(flow.service),
    bytesSent: Number(flow.bytesSent),
    bytesReceived: Number(flow.bytesReceived),
    connectMicroseconds: Number(flow.connectMicroseconds),
    handshakeMicroseconds: Number(flow.handshakeMicroseconds),
    firstByteMicroseconds: Number(flow.firstByteMicroseconds),
    durationMicroseconds: Number(flow.durationMicroseconds),
    tls:
      flow.tlsVersion === ""
        ? null
        : { version: flow.tlsVersion, cipher: flow.tlsCipher, group: flow.tlsGroup, peerSerial: flow.peerSerial },
    protocol: none(flow.protocol),
    serverName: none(flow.serverName),
    closedBy: closerOf(flow.closedBy),
    reset: flow.reset,
    responseFlags: none(flow.responseFlags),
    podUid: flow.podUid,
    request: flow.request === undefined ? null : projectRequest(flow.request),
    audit: flow.audit === undefined ? null : projectAudit(flow.audit),
  };
}

/** A verdict of a later engine is not one that lets anybody in. */
const projectAudit = ({ verdict, policy, rule, code }: Audit): AuditRecord => ({
  verdict: verdicts[verdict as keyof typeof verdicts] ?? "failed",
  policy: none(policy),
  rule: policy === "" ? null : rule,
  code: none(code),
});

const projectRequest = (request: Request): RequestRecord => ({
  method: request.method,
  authority: request.authority,
  path: request.path,
  port: request.port === 0 ? null : request.port,
  protocol: request.protocol,
  status: request.status === 0 ? null : request.status,
  grpcStatus: request.grpcStatus ?? null,
  flags: request.flags.split(",").filter((flag) => flag !== "" && flag !== "-"),
  route: none(request.route),
  backend: none(request.backend),
  retries: request.retries,
  requestId: none(request.requestId),
  traceparent: none(request.traceparent),
});

export const projectEvent = (event: Event): EngineEvent => ({
  time: time(event.time),
  level: event.level,
  code: none(event.code),
  podUid: none(event.podUid),
  message: event.message,
});

/** A record is about the moment of its phase: a long connection that ends now is news. */
export const momentOf = (flow: FlowRecord): number =>
  Date.parse(flow.start) + (flow.phase === "opened" ? 0 : flow.durationMicroseconds / 1000);
