// A line of the flows as an OTLP log record, by OpenTelemetry's semantic conventions where they have a name for it.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type AnyValueSchema,
  type ExportLogsServiceRequest,
  ExportLogsServiceRequestSchema,
  type KeyValueSchema,
  type LogRecord,
  LogRecordSchema,
} from "#contract/gen/opentelemetry/logs_pb.ts";
import { product } from "#contract/tables.ts";
import { type FlowEndpoint, type FlowLine, type FlowRecord, momentOf, type RequestRecord } from "../flow.ts";

type Value = string | number | boolean | readonly string[] | null;
type Attributes = Readonly<Record<string, Value>>;

/** Of all names that no convention has. */
const PREFIX = product.labelPrefix.split(".")[0] ?? "";
const SCOPE = `${product.labelPrefix}/flows`;
const SEVERITY = { INFO: 9, WARN: 13, ERROR: 17 } as const;
const BY_VERDICT = { allowed: "INFO", denied: "WARN", failed: "ERROR" } as const;

export type Teller = { readonly node: string; readonly version: string; readonly resource: Readonly<Record<string, string>> };

/** `now`: Unix milliseconds. */
export function logsRequest(lines: readonly FlowLine[], { node, version, resource }: Teller, now: number): ExportLogsServiceRequest {
  const about = { "k8s.node.name": node, "service.version": version, ...resource };
  return create(ExportLogsServiceRequestSchema, {
    resourceLogs: [
      {
        resource: { attributes: attributes(about) },
        scopeLogs: [{ scope: { name: SCOPE, version }, logRecords: lines.map((line) => logRecord(line, now)) }],
      },
    ],
  });
}

function logRecord(line: FlowLine, now: number): LogRecord {
  if (line.type === "flow") return flowRecord(line.flow, now);
  if (line.type === "event") {
    const { time, level, code, podUid, message } = line.event;
    const facts = { "error.type": code, "k8s.pod.uid": podUid };
    return record("event", level === "error" ? "ERROR" : "WARN", message, facts, Date.parse(time), now);
  }
  if (line.type === "dropped")
    return record(
      "dropped",
      "WARN",
      `${line.count} records are missing here: a queue was full`,
      { [`${PREFIX}.dropped`]: line.count },
      now,
      now,
    );
  return record("malformed", "WARN", `record ${line.sequence} cannot be read: ${line.fault}`, {}, now, now);
}

function flowRecord(flow: FlowRecord, now: number): LogRecord {
  const { source, destination, verdict, request, service } = flow;
  const name = ({ namespace, workload, pod, address }: FlowEndpoint): string =>
    (workload ?? pod) === null ? address : `${namespace ?? "?"}/${workload ?? pod}`;
  const what = request === null ? "" : `: ${request.method} ${request.path} ${request.status ?? "no answer"}`;
  const text = `${verdict} ${name(source)} → ${service ?? name(destination)}:${destination.port}${what}`;
  const facts = { ...ends(flow), ...decision(flow), ...course(flow), ...(request === null ? {} : requestFacts(request)) };
  const made = record(request === null ? "flow" : "request", BY_VERDICT[verdict], text, facts, momentOf(flow), now);
  return Object.assign(made, trace(request?.traceparent ?? null));
}

/** Whom it was addressed to is the server; who answered is the destination. */
function ends({ source, destination, service, tls, request }: FlowRecord): Attributes {
  return {
    "network.transport": "tcp",
    "network.type": destination.address === "" ? null : destination.address.includes(":") ? "ipv6" : "ipv4",
    "client.address": source.address,
    "client.port": source.port,
    "server.address": request?.authority.replace(/:\d+$/, "") || (service?.slice(service.indexOf("/") + 1) ?? destination.address),
    "server.port": request?.port ?? destination.port,
    "destination.address": destination.address,
    "destination.port": destination.port,
    [`${PREFIX}.service`]: service,
    ...endFacts("source", source),
    ...endFacts("destination", destination),
    "tls.established": tls === null ? null : true,
    "tls.protocol.name": tls === null ? null : "tls",
    "tls.protocol.version": tls?.version.replace("TLSv", "") ?? null,
    "tls.cipher": tls?.cipher.replace(/^TLS13_/, "TLS_") ?? null,
    "tls.curve": tls?.group ?? null,
    [`${PREFIX}.tls.peer_serial`]: tls?.peerSerial ?? null,
  };
}

const endFacts = (side: "source" | "destination", { namespace, pod, workload, identity, node }: FlowEndpoint): Attributes => ({
  [`${PREFIX}.${side}.namespace`]: namespace,
  [`${PREFIX}.${side}.pod`]: pod,
  [`${PREFIX}.${side}.workload`]: workload,
  [`${PREFIX}.${side}.identity`]: identity,
  [`${PREFIX}.${side}.node`]: node,
});

const decision = ({ verdict, policy, rule, code, reason, responseFlags, audit }: FlowRecord): Attributes => ({
  [`${PREFIX}.verdict`]: verdict,
  [`${PREFIX}.policy`]: policy,
  [`${PREFIX}.rule`]: rule,
  "error.type": code,
  "error.message": reason,
  [`${PREFIX}.response_flags`]: responseFlags,
  [`${PREFIX}.dry_run.verdict`]: audit?.verdict ?? null,
  [`${PREFIX}.dry_run.policy`]: audit?.policy ?? null,
});

function course(flow: FlowRecord): Attributes {
  const open = flow.phase === "opened";
  return {
    // A request says it better.
    ...protocolFacts(flow.request?.protocol ?? flow.protocol ?? ""),
    [`${PREFIX}.tls.server_name`]: flow.serverName,
    [`${PREFIX}.id`]: flow.id,
    [`${PREFIX}.phase`]: flow.phase,
    [`${PREFIX}.direction`]: flow.direction,
    [`${PREFIX}.path`]: flow.path,
    [`${PREFIX}.pod_uid`]: flow.podUid,
    [`${PREFIX}.start`]: flow.start,
    [`${PREFIX}.connect_us`]: flow.connectMicroseconds,
    [`${PREFIX}.handshake_us`]: flow.handshakeMicroseconds,
    [`${PREFIX}.first_byte_us`]: open ? null : flow.firstByteMicroseconds,
    [`${PREFIX}.duration_us`]: open ? null : flow.durationMicroseconds,
    [`${PREFIX}.bytes_sent`]: open ? null : flow.bytesSent,
    [`${PREFIX}.bytes_received`]: open ? null : flow.bytesReceived,
    [`${PREFIX}.closed_by`]: flow.closedBy,
    [`${PREFIX}.reset`]: open ? null : flow.reset,
  };
}

/** "HTTP/2.0", "http/1.1", "postgresql". */
function protocolFacts(text: string): Attributes {
  const [name = "", version = ""] = text.split("/");
  return { "network.protocol.name": name.toLowerCase(), "network.protocol.version": version.replace(/^2\.0$/, "2") };
}

function requestFacts(request: RequestRecord): Attributes {
  return {
    "http.request.method": request.method,
    "url.path": request.path,
    "http.response.status_code": request.status,
    "rpc.grpc.status_code": request.grpcStatus,
    "http.request.resend_count": request.retries === 0 ? null : request.retries,
    [`${PREFIX}.route`]: request.route,
    [`${PREFIX}.backend`]: request.backend,
    [`${PREFIX}.request_id`]: request.requestId,
    [`${PREFIX}.request_flags`]: request.flags,
  };
}

/** "00-TRACE-SPAN-FLAGS". */
function trace(traceparent: string | null): Partial<Pick<LogRecord, "traceId" | "spanId" | "flags">> {
  const [, traceId, spanId, flags] = /^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(traceparent ?? "") ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) return {};
  return { traceId: Buffer.from(traceId, "hex"), spanId: Buffer.from(spanId, "hex"), flags: Number.parseInt(flags, 16) };
}

/** Times in Unix milliseconds. */
function record(name: string, severity: keyof typeof SEVERITY, text: string, facts: Attributes, time: number, now: number): LogRecord {
  return create(LogRecordSchema, {
    timeUnixNano: nanoseconds(time),
    observedTimeUnixNano: nanoseconds(now),
    severityNumber: SEVERITY[severity],
    severityText: severity,
    eventName: `${PREFIX}.${name}`,
    body: anyValue(text),
    attributes: attributes(facts),
  });
}

const nanoseconds = (milliseconds: number): bigint => BigInt(Math.round(milliseconds * 1000)) * 1000n;

/** What is not known is left out. */
const attributes = (facts: Attributes): MessageInitShape<typeof KeyValueSchema>[] =>
  Object.entries(facts).flatMap(([key, value]) =>
    value === null || value === "" || (Array.isArray(value) && value.length === 0) ? [] : [{ key, value: anyValue(value) }],
  );

function anyValue(value: NonNullable<Value>): MessageInitShape<typeof AnyValueSchema> {
  if (typeof value === "string") return { value: { case: "stringValue", value } };
  if (typeof value === "number") return { value: { case: "intValue", value: BigInt(Math.round(value)) } };
  if (typeof value === "boolean") return { value: { case: "boolValue", value } };
  return { value: { case: "arrayValue", value: { values: value.map(anyValue) } } };
}
