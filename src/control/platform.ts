// What control stands on: where documents come from, who its callers are, where its keys lie, and who is told what became of things.
// A directory with files and a Kubernetes API server are the two there are.
import type { ServingAuthority } from "#ca/signing.ts";
import type { NodeUpdate } from "#compile/compiler.ts";
import type { AboutRecording } from "#inspect/question.ts";
import type { Pod } from "#mesh/objects.ts";
import type { Change, Fault, Source } from "#source/source.ts";
import type { GatewayStatus, PolicyStatus, RouteStatus } from "#waypoint/status.ts";
import type { Waypoint } from "#waypoint/waypoint.ts";
import type { BelievedReport } from "./nodes.ts";
import type { Peer } from "./peers.ts";
import type { Viewers } from "./people.ts";

export type Callers = {
  /** The node that this token proves, null when it proves none; rejects when that cannot be found out now. `address` is where the call comes from. */
  nodeOf(token: string, address?: string): Promise<string | null>;
  /** The same for a waypoint: the uid of its pod. */
  waypointOf(token: string, address?: string): Promise<string | null>;
  /** Takes the nodes that there are; returns those whose streams must end, because they are gone or their proof is not valid any more. */
  refresh(nodes: Iterable<string>): Promise<readonly string[]>;
  /** The same for the pods of waypoints: uids. */
  refreshWaypoints(pods: Iterable<Pod>): Promise<readonly string[]>;
};

/** Hears what became of things and writes it where people look. */
export type Herald = {
  /** A batch of the source is in force; `faults` are all there are now. */
  changed(change: Change, faults: readonly Fault[]): void;
  /** What waypoints there should be, and what is to be said of routes and Gateways. */
  waypoints(report: WaypointReport): void;
  /** What a node said, null when its stream ended. */
  reported(node: string, report: BelievedReport | null): void;
};

export type WaypointReport = {
  readonly waypoints: readonly Waypoint[];
  readonly routes: readonly RouteStatus[];
  readonly gateways: readonly GatewayStatus[];
  readonly policies: readonly PolicyStatus[];
};

export type Platform = {
  readonly source: Source;
  readonly authority: ServingAuthority;
  readonly callers: Callers;
  readonly viewers: Viewers;
  /** Live replicas of control besides this one. */
  peers(): readonly Peer[];
  /** Names besides its addresses by which daemons call control. */
  readonly serverNames: readonly string[];
  readonly herald: Herald | null;
  /** Tells the namespaces of pods that their traffic is going to be recorded. Rejects when they cannot be told. */
  announce(recording: AboutRecording): Promise<void>;
  /** For the log: what this control stands on. */
  readonly described: string;
  /** Called every few seconds, one call at a time: renew what ends, notice what changed under us. */
  maintain(): Promise<void>;
  /** Brings metrics up to the moment. */
  observe(): void;
  close(): Promise<void>;
};

/** What a platform may ask of the control that it carries. */
export type Carried = {
  /** The node's own stream ends here. */
  isAttached(node: string): boolean;
  /** What is known of a node by another way than its own stream. */
  report(update: NodeUpdate): void;
};
