// What control's health port answers about nodes, as JSON for the CLI.
import { PodPhase } from "#contract/gen/control_pb.ts";
import type { StreamInfo } from "#xds/server.ts";
import type { NodeStatus } from "./nodes.ts";

export const shortType = (typeUrl: string): string => typeUrl.slice(typeUrl.lastIndexOf(".") + 1).toLowerCase();

const phaseName = (phase: PodPhase): string =>
  Object.entries(PodPhase)
    .find(([, value]) => value === phase)?.[0]
    ?.toLowerCase() ?? String(phase);

export const nodeJson = ({ node, connected, since, pods }: NodeStatus) => ({
  node,
  connected,
  since,
  pods: [...pods].map(([uid, { namespace, name, phase, code, reason }]) => ({
    uid,
    namespace,
    name,
    phase: phaseName(phase),
    code,
    reason,
  })),
});

export const streamJson = ({ node, since, types }: StreamInfo) => ({
  node,
  since,
  types: Object.fromEntries([...types()].map(([typeUrl, counters]) => [shortType(typeUrl), counters])),
});
