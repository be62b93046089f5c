// `trackbed explain FLOW-ID`: what decided a connection or request that happened, asked of whoever keeps it, and what would decide it now.
import { askConnection, type ExplainedConnection, type Unknown } from "#inspect/eval/ask-connection.ts";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import { readQuestion } from "#inspect/question.ts";
import { explainError } from "#mesh/error.ts";
import { type Exit, exit, type Format } from "../outcome.ts";
import { askerOf } from "../question.ts";
import { paint } from "../table.ts";
import { type Answering, type AskOptions, whoAnswers } from "./connection.ts";
import { connectionPage } from "./connection-page.ts";

export const isFlowId = (text: string): boolean => /^\d+$/.test(text);

/** In a cluster the records come through control, from the nodes: `account` is whose right to read them counts. */
export type FlowOptions = AskOptions & { readonly account?: string };

type Kept = { readonly node: string; readonly flow: FlowRecord };

export async function runFlow(id: string, options: FlowOptions, format: Format): Promise<Exit> {
  const records = await keptRecords(id, options);
  const answering = await whoAnswers(options).catch((error: unknown) => ({ untold: explainError(error) }));
  await using evaluator = startEvaluator();
  const told = [];
  for (const { node, flow } of records)
    told.push({ node, flow, now: "untold" in answering ? null : await askConnection(evaluator, again(flow, answering)) });
  if (format === "json")
    console.log(JSON.stringify({ ...("untold" in answering ? answering : { from: answering.from }), flows: told }, null, 2));
  else
    for (const { node, flow, now } of told) {
      const page = "untold" in answering ? `cannot be said: ${answering.untold}` : nowText(now, answering.from);
      console.log(`${thenText(node, flow)}\n\n${paint("Now", "bold")}\n${page}`);
    }
  return told.every(({ now }) => now !== null && !("missing" in now) && now.answer.verdict === "allowed") ? exit.ok : exit.failed;
}

/** The last record of each connection that has this number: every engine counts for itself. */
async function keptRecords(id: string, { namespace, account, ...where }: FlowOptions): Promise<Kept[]> {
  const question = readQuestion({ about: "flows", filter: `id == "${id}"`, namespaces: namespace === undefined ? null : [namespace] });
  const asker = await askerOf(where, account ?? null);
  const found = new Map<string, Kept>();
  const missing: string[] = [];
  try {
    for await (const line of asker.ask(question, new AbortController().signal)) {
      if (line.type === "missing") missing.push(`${line.node}: ${line.reason}`);
      if (line.type === "flow") found.set(`${line.node} ${line.flow.podUid}`, { node: line.node ?? "", flow: line.flow });
    }
  } finally {
    await asker.close();
  }
  for (const reason of missing) console.error(`trackbed: without ${reason}`);
  if (found.size === 0)
    throw new Error(
      `no node keeps flow ${id} any more${namespace === undefined ? "" : `, or none that concerns ${namespace}`}: kept are the last minutes of each`,
    );
  return [...found.values()];
}

/** The same client, to what it had addressed. */
function again({ source, destination, service, request }: FlowRecord, { meshes }: Answering): Parameters<typeof askConnection>[1] {
  const from = { kind: "address", address: source.address } as const;
  if (request === null || service === null)
    return { source: from, destination: { host: destination.address, port: destination.port }, meshes };
  const { method, path, port, authority } = request;
  return {
    source: from,
    destination: { host: service.slice(service.indexOf("/") + 1), port: port ?? destination.port },
    request: { method, path, headers: [["host", authority]] },
    meshes,
  };
}

const nowText = (now: ExplainedConnection | Unknown | null, from: string): string =>
  now === null ? "" : "missing" in now ? now.missing : connectionPage(now, from);

function thenText(node: string, flow: FlowRecord): string {
  const { start, direction, path, verdict, policy, rule, code, reason, source, destination, podUid, audit, request } = flow;
  const by = policy === null ? "no policy decided" : `by ${policy}${code === "E_POLICY_NO_ALLOW" ? "" : ` rule ${rule ?? 0}`}`;
  const why = [code, reason].filter(Boolean).join(": ");
  const dry = audit === null ? "" : `; dry run: ${audit.verdict} by ${audit.policy ?? "no policy"}`;
  const end = ({ identity, address, port }: FlowRecord["source"]): string => `${identity ?? "no identity"} ${address}:${port}`;
  return [
    `${paint("Then", "bold")} ${start}, ${direction} at pod ${podUid}${node === "" ? "" : ` (${node})`}, ${path ?? "before a path was chosen"}`,
    `${end(source)} → ${end(destination)}`,
    ...(request === null ? [] : [`${request.method} ${request.authority}${request.path} → ${request.status ?? "no answer"}`]),
    `${verdict} ${by}${why === "" ? "" : `: ${why}`}${dry}`,
  ].join("\n");
}
