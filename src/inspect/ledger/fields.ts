// What records and edges can be filtered and grouped by: the names that their JSON has, and nothing else.
import type { Field, Fields, Value } from "../filter.ts";
import type { FlowEndpoint, FlowRecord } from "../flow.ts";
import type { Edge, EdgeEnd } from "./edge.ts";

const text = <T>(read: (record: T) => string | null): Field<T> => ({ kind: "text", read });
const number = <T>(read: (record: T) => number | null): Field<T> => ({ kind: "number", read });
const flag = <T>(read: (record: T) => boolean): Field<T> => ({ kind: "flag", read });
const list = <T>(read: (record: T) => readonly string[]): Field<T> => ({ kind: "list", read });

export const edgeFields: Fields<Edge> = {
  reporter: text(({ reporter }) => reporter),
  path: text(({ path }) => path),
  verdict: text(({ verdict }) => verdict),
  policy: text(({ policy }) => policy),
  rule: number(({ rule }) => rule),
  code: text(({ code }) => code),
  ...edgeEnd("source"),
  ...edgeEnd("destination"),
  service: text(({ service }) => service),
  port: number(({ port }) => port),
  "request.method": text(({ request }) => request?.method ?? null),
  "request.status": number(({ request }) => request?.status ?? null),
  "request.route": text(({ request }) => request?.route ?? null),
  "request.flags": list(({ request }) => request?.flags ?? []),
  "request.port": number(({ request }) => request?.port ?? null),
  "request.authority": text(({ request }) => request?.authority ?? null),
  "request.path": text(({ request }) => request?.path ?? null),
  other: flag(({ other }) => other),
};

function edgeEnd(side: "source" | "destination"): Fields<Edge> {
  const of = (read: (end: EdgeEnd) => string | null) => text((edge: Edge) => read(edge[side]));
  return {
    [`${side}.workload`]: of(({ workload }) => workload),
    [`${side}.namespace`]: of(({ namespace }) => namespace),
    [`${side}.identity`]: of(({ identity }) => identity),
  };
}

export const flowFields: Fields<FlowRecord> = {
  id: text(({ id }) => id),
  phase: text(({ phase }) => phase),
  direction: text(({ direction }) => direction),
  path: text(({ path }) => path),
  verdict: text(({ verdict }) => verdict),
  policy: text(({ policy }) => policy),
  rule: number(({ rule }) => rule),
  code: text(({ code }) => code),
  reason: text(({ reason }) => reason),
  ...flowEnd("source"),
  ...flowEnd("destination"),
  service: text(({ service }) => service),
  bytesSent: number(({ bytesSent }) => bytesSent),
  bytesReceived: number(({ bytesReceived }) => bytesReceived),
  connectMicroseconds: number(({ connectMicroseconds }) => connectMicroseconds),
  handshakeMicroseconds: number(({ handshakeMicroseconds }) => handshakeMicroseconds),
  firstByteMicroseconds: number(({ firstByteMicroseconds }) => firstByteMicroseconds),
  durationMicroseconds: number(({ durationMicroseconds }) => durationMicroseconds),
  "tls.version": text(({ tls }) => tls?.version ?? null),
  "tls.cipher": text(({ tls }) => tls?.cipher ?? null),
  "tls.group": text(({ tls }) => tls?.group ?? null),
  "tls.peerSerial": text(({ tls }) => tls?.peerSerial ?? null),
  protocol: text(({ protocol }) => protocol),
  serverName: text(({ serverName }) => serverName),
  closedBy: text(({ closedBy }) => closedBy),
  reset: flag(({ reset }) => reset),
  responseFlags: text(({ responseFlags }) => responseFlags),
  podUid: text(({ podUid }) => podUid),
  request: flag(({ request }) => request !== null),
  "request.method": text(({ request }) => request?.method ?? null),
  "request.authority": text(({ request }) => request?.authority ?? null),
  "request.path": text(({ request }) => request?.path ?? null),
  "request.port": number(({ request }) => request?.port ?? null),
  "request.protocol": text(({ request }) => request?.protocol ?? null),
  "request.status": number(({ request }) => request?.status ?? null),
  "request.grpcStatus": number(({ request }) => request?.grpcStatus ?? null),
  "request.flags": list(({ request }) => request?.flags ?? []),
  "request.route": text(({ request }) => request?.route ?? null),
  "request.backend": text(({ request }) => request?.backend ?? null),
  "request.retries": number(({ request }) => request?.retries ?? null),
  "request.requestId": text(({ request }) => request?.requestId ?? null),
  "request.traceparent": text(({ request }) => request?.traceparent ?? null),
};

function flowEnd(side: "source" | "destination"): Fields<FlowRecord> {
  const of = (read: (end: FlowEndpoint) => string | null) => text((flow: FlowRecord) => read(flow[side]));
  return {
    [`${side}.address`]: of(({ address }) => address),
    [`${side}.port`]: number((flow: FlowRecord) => flow[side].port),
    [`${side}.pod`]: of(({ pod }) => pod),
    [`${side}.workload`]: of(({ workload }) => workload),
    [`${side}.namespace`]: of(({ namespace }) => namespace),
    [`${side}.identity`]: of(({ identity }) => identity),
    [`${side}.node`]: of(({ node }) => node),
  };
}

/** A value as a column of a table or a key of a group; a list as one text. */
export const plain = (value: Value): string | number | boolean | null => (Array.isArray(value) ? value.join(",") : (value as never));
