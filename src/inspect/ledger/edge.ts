// Who talks to whom, how, and what became of it: an edge as the ledger keeps it and people read it, from the engine's EdgeAbout.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Direction, type EdgeAbout, EdgeAboutSchema, type EdgeEnd as EdgeEndMessage, type EdgeRequest } from "#contract/gen/engine_pb.ts";
import { type FlowRecord, pathOf, verdictOf } from "../flow.ts";

export type EdgeEnd = {
  /** What made the pod, such as a Deployment. */
  readonly workload: string | null;
  readonly namespace: string | null;
  /** SPIFFE URI, only when proven. */
  readonly identity: string | null;
};

export type Edge = {
  /** Whose engine counted it. A connection between two pods of the mesh is counted at both ends: see `isToldTwice`. */
  readonly reporter: "source" | "destination" | "waypoint";
  readonly path: FlowRecord["path"];
  readonly verdict: FlowRecord["verdict"];
  /** "namespace/name" and rule index of the policy that decided. */
  readonly policy: string | null;
  readonly rule: number | null;
  readonly code: string | null;
  readonly source: EdgeEnd;
  readonly destination: EdgeEnd;
  /** "namespace/hostname", null when addressed by pod IP. */
  readonly service: string | null;
  /** Of the destination, behind the service. */
  readonly port: number;
  /** Of a waypoint: these are requests, not connections. */
  readonly request: EdgeRequestFacts | null;
  /** Stands for all that found no room of their own; its source is not told. */
  readonly other: boolean;
};

export type EdgeRequestFacts = {
  readonly method: string;
  /** Null when none was sent. */
  readonly status: number | null;
  readonly route: string | null;
  /** Envoy's response flags; empty without any. */
  readonly flags: readonly string[];
  /** Of the service, as it was addressed; null in edges of earlier engines. */
  readonly port: number | null;
  /** As the client sent them, the path without its query; null where more were seen of the service than are told apart. */
  readonly authority: string | null;
  readonly path: string | null;
};

export type Counts = {
  /** Connections whose fate was decided, or requests that were answered. */
  readonly count: number;
  /** Those that are over. Of another verdict than "allowed": those that were refused, failed or were cut. */
  readonly ended: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** By time to the first byte (a connection) or to the last (a request); see latency.ts. */
  readonly latency: readonly number[];
};

/** What was counted of one edge from `time` (RFC 3339) on for `seconds`. */
export type EdgeRow = Counts & { readonly time: string; readonly seconds: number; readonly edge: Edge };

/**
 * The engine at the other end has counted the same: with these left out every connection counts once. A connection that failed on its way is
 * known at its source only.
 */
export const isToldTwice = ({ reporter, path, verdict }: Edge): boolean =>
  reporter === "source" && (path === "tunnel" || path === "relay") && verdict !== "failed";

/** The edge that takes what found no room: to the same destination, or without a name at all. */
export function otherOf(encoded: Uint8Array, destinationToo: boolean): Uint8Array {
  const { direction, path, verdict, destination, service, port } = fromBinary(EdgeAboutSchema, encoded);
  const kept = destinationToo ? {} : { path, service, port, ...(destination === undefined ? {} : { destination }) };
  return toBinary(EdgeAboutSchema, create(EdgeAboutSchema, { direction, verdict, other: true, ...kept }));
}

const none = (text: string): string | null => (text === "" ? null : text);

/** An edge from its encoding in Edge.about; a fault where no engine may send it. */
export function readEdge(encoded: Uint8Array): Edge | { readonly fault: string } {
  let about: EdgeAbout;
  try {
    about = fromBinary(EdgeAboutSchema, encoded);
  } catch (error) {
    return { fault: `not an EdgeAbout: ${error instanceof Error ? error.message : String(error)}` };
  }
  const [path, verdict] = [pathOf(about.path), verdictOf(about.verdict)];
  if (path === undefined) return { fault: `unknown path ${about.path}` };
  if (verdict === undefined) return { fault: `unknown verdict ${about.verdict}` };
  if (about.direction !== Direction.OUTBOUND && about.direction !== Direction.INBOUND)
    return { fault: `unknown direction ${about.direction}` };
  const end = about.direction === Direction.OUTBOUND ? "source" : "destination";
  return {
    reporter: about.request === undefined ? end : "waypoint",
    path,
    verdict,
    policy: none(about.policy),
    rule: about.policy === "" ? null : about.rule,
    code: none(about.code),
    source: endOf(about.source),
    destination: endOf(about.destination),
    service: none(about.service),
    port: about.port,
    request: about.request === undefined ? null : requestOf(about.request),
    other: about.other,
  };
}

const endOf = (end: EdgeEndMessage | undefined): EdgeEnd => ({
  workload: none(end?.workload ?? ""),
  namespace: none(end?.namespace ?? ""),
  identity: none(end?.identity ?? ""),
});

const requestOf = ({ method, status, route, flags, port, authority, path }: EdgeRequest): EdgeRequestFacts => ({
  method,
  status: status === 0 ? null : status,
  route: none(route),
  flags: flagsOf(flags),
  port: port === 0 ? null : port,
  authority: path === "" ? null : authority,
  path: none(path),
});

const flagsOf = (text: string): string[] => text.split(",").filter((flag) => flag !== "" && flag !== "-");
