// `trackbed status`: every node's daemon, engine and pods, and why something is not as desired.
import type { NodeStatus, PodStatus, Problem } from "#inspect/status.ts";
import { askAll, findDaemons, status } from "./daemons.ts";
import { type Exit, exit, type Format } from "./outcome.ts";
import { paint, table } from "./table.ts";

export async function runStatus(runs: readonly string[], format: Format): Promise<Exit> {
  const { answers, failures } = await askAll(findDaemons(runs), status);
  const nodes = [...answers].sort((a, b) => a.node.localeCompare(b.node));
  const unreachable = failures.map(({ run, error }) => ({ run, reason: error.message }));
  const healthy = unreachable.length === 0 && nodes.every(isHealthy);
  if (format === "json") console.log(JSON.stringify({ healthy, nodes, unreachable }, null, 2));
  else
    console.log(
      [nodeTable(nodes), podTable(nodes), ...problems(nodes), ...unreachable.map(({ reason }) => reason)].filter(Boolean).join("\n\n"),
    );
  return healthy ? exit.ok : exit.failed;
}

export function isHealthy(node: NodeStatus): boolean {
  const { engine, control, source, ready, pods } = node;
  return ready && engine.connected && control.connected && source.length === 0 && engine.rejected.length === 0 && pods.every(isAsDesired);
}

function isAsDesired({ desired, phase, problem }: PodStatus): boolean {
  return problem === null && (desired !== "enrolled" || phase === "ready");
}

const yes = (good: boolean, yes: string, no: string): string => (good ? paint(yes, "green") : paint(no, "red"));

function nodeTable(nodes: readonly NodeStatus[]): string {
  const rows = nodes.map(({ node, ready, engine, control, state, pods, version }) => [
    node,
    yes(ready, "ready", "not ready"),
    yes(engine.connected, "connected", "away"),
    yes(control.connected, "connected", "away"),
    `${state.from}, ${state.resources} resources`,
    engine.acknowledged === engine.generation ? engine.generation : `${engine.acknowledged} of ${engine.generation}`,
    `${pods.filter(({ phase }) => phase === "ready").length}/${pods.filter(({ desired }) => desired === "enrolled").length}`,
    version,
  ]);
  return table(["NODE", "DAEMON", "ENGINE", "CONTROL", "STATE", "GENERATION", "PODS READY", "VERSION"], rows);
}

const PHASE_STYLE = { ready: "green", captured: "yellow", leaving: "yellow", absent: "dim" } as const;

function podTable(nodes: readonly NodeStatus[]): string {
  const rows = nodes
    .flatMap(({ node, pods }) => pods.map((pod) => ({ node, pod })))
    .sort((a, b) => `${a.pod.namespace}/${a.pod.name}`.localeCompare(`${b.pod.namespace}/${b.pod.name}`))
    .map(({ node, pod }) => [
      `${pod.namespace}/${pod.name}`,
      node,
      paint(pod.phase, isAsDesired(pod) ? PHASE_STYLE[pod.phase] : "red"),
      pod.desired === "enrolled" ? pod.identity : "-",
      String(pod.connections),
      pod.notMeshed === null || pod.notMeshed === 0 ? "-" : String(pod.notMeshed),
      pod.problem?.code ?? waitingFor(pod),
    ]);
  return table(["POD", "NODE", "PHASE", "IDENTITY", "CONNECTIONS", "NOT MESHED", "WHY NOT READY"], rows);
}

/** The fact that is missing, when it is only a matter of time. */
function waitingFor({ desired, phase, engine }: PodStatus): string {
  if (desired !== "enrolled" || phase === "ready") return "-";
  if (engine === null) return "waits for the engine";
  const missing = [engine.listening ? "" : "listeners", engine.identity ? "" : "identity", engine.policy ? "" : "policy"].filter(Boolean);
  return missing.length === 0 ? "waits for proof" : `waits for ${missing.join(", ")}`;
}

function problems(nodes: readonly NodeStatus[]): string[] {
  const one = (where: string, { code, reason, next }: Problem): string => `${paint(where, "bold")}: ${reason} (${code})\n  next: ${next}`;
  return nodes.flatMap(({ node, engine, control, source, pods }) => [
    ...(engine.problem === null ? [] : [one(`${node} engine`, engine.problem)]),
    ...(control.problem === null ? [] : [one(`${node} control`, control.problem)]),
    ...engine.rejected.map(({ name, code, reason }) => `${paint(name, "bold")}: ${reason} (${code})`),
    ...source.map(({ file, line, field, reason, code }) => `${paint(`${file}:${line}`, "bold")} ${field}: ${reason} (${code})`),
    ...pods.flatMap((pod) => (pod.problem === null ? [] : [one(`${pod.namespace}/${pod.name}`, pod.problem)])),
  ]);
}
