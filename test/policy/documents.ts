// Policies of the policy tests as documents, and where to ask what the mesh made of them.
import { join } from "node:path";
import { paths, ports } from "#contract/tables.ts";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import type { Fault } from "#source/source.ts";
import type { Lab } from "../../src/lab/api.ts";
import { get } from "../../src/lab/mesh.ts";

export const NAMESPACE = "app";
export const ROOT_NAMESPACE = "trackbed-system";

export type Scope = { readonly namespace?: string; readonly selector?: Readonly<Record<string, string>> };

const object = (kind: string, name: string, { namespace = NAMESPACE, selector }: Scope, spec: Readonly<Record<string, unknown>>): string =>
  JSON.stringify({
    apiVersion: "security.istio.io/v1",
    kind,
    metadata: { name, namespace },
    spec: { ...(selector === undefined ? {} : { selector: { matchLabels: selector } }), ...spec },
  });

export const authorization = (name: string, action: "ALLOW" | "DENY", rules: readonly unknown[], scope: Scope = {}): string =>
  object("AuthorizationPolicy", name, scope, { action, rules });

export const peerAuthentication = (name: string, spec: Readonly<Record<string, unknown>>, scope: Scope = {}): string =>
  object("PeerAuthentication", name, scope, spec);

export const principal = (serviceAccount: string, namespace = NAMESPACE): string => `cluster.local/ns/${namespace}/sa/${serviceAccount}`;

/** Flow records of a node, oldest first. */
export async function flows(lab: Lab, node: string, since: number): Promise<FlowRecord[]> {
  const socketPath = join(lab.node(node).runDirectory, paths.adminSocket);
  const text = await get({ socketPath }, `/v1/flows?since=${new Date(since).toISOString()}`);
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
}

/** What control found wrong with documents. */
export async function faults(): Promise<Fault[]> {
  const answer = JSON.parse(await get({ host: "127.0.0.1", port: ports.controlHealth }, "/v1/faults")) as { faults: Fault[] };
  return answer.faults;
}
