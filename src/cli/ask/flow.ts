// `trackbed explain FLOW-ID`: what decided a connection that happened, and what would decide it now.
import { askConnection } from "#inspect/eval/ask-connection.ts";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import { askAll, findDaemons, flows } from "../daemons.ts";
import { type Exit, exit, type Format } from "../outcome.ts";
import { paint } from "../table.ts";
import { type AskOptions, whoAnswers } from "./connection.ts";
import { connectionPage } from "./connection-page.ts";

export const isFlowId = (text: string): boolean => /^\d+$/.test(text);

export async function runFlow(id: string, options: AskOptions, format: Format): Promise<Exit> {
  const stop = new AbortController();
  const { answers } = await askAll(findDaemons(options.run), async (daemon) => {
    const found: FlowRecord[] = [];
    for await (const line of flows(daemon, false, stop.signal)) if (line.type === "flow" && line.flow.id === id) found.push(line.flow);
    return found;
  });
  // Each engine counts for itself: one number may be of several connections.
  const records = answers.flatMap((found) => found.slice(-1));
  if (records.length === 0) throw new Error(`no node keeps flow ${id} any more: kept are the last minutes of each`);
  const answering = await whoAnswers(options);
  await using evaluator = startEvaluator();
  const told = [];
  for (const flow of records) {
    const { source, destination } = flow;
    const asked = {
      source: { kind: "address", address: source.address } as const,
      destination: { host: destination.address, port: destination.port },
      meshes: answering.meshes,
    };
    told.push({ flow, now: await askConnection(evaluator, asked) });
  }
  if (format === "json") console.log(JSON.stringify({ from: answering.from, flows: told }, null, 2));
  else
    for (const { flow, now } of told)
      console.log(`${thenText(flow)}\n\n${paint("Now", "bold")}\n${"missing" in now ? now.missing : connectionPage(now, answering.from)}`);
  return told.every(({ now }) => !("missing" in now) && now.answer.verdict === "allowed") ? exit.ok : exit.failed;
}

function thenText({ start, direction, path, verdict, policy, rule, code, reason, source, destination, podUid, audit }: FlowRecord): string {
  const by = policy === null ? "no policy decided" : `by ${policy}${code === "E_POLICY_NO_ALLOW" ? "" : ` rule ${rule ?? 0}`}`;
  const why = [code, reason].filter(Boolean).join(": ");
  const dry = audit === null ? "" : `; dry run: ${audit.verdict} by ${audit.policy ?? "no policy"}`;
  const end = ({ identity, address, port }: FlowRecord["source"]): string => `${identity ?? "no identity"} ${address}:${port}`;
  return [
    `${paint("Then", "bold")} ${start}, ${direction} at pod ${podUid}, ${path ?? "before a path was chosen"}`,
    `${end(source)} → ${end(destination)}`,
    `${verdict} ${by}${why === "" ? "" : `: ${why}`}${dry}`,
  ].join("\n");
}
