// `trackbed explain SOURCE HOST:PORT`: what would become of a connection now, and why, by the functions that decide it on a node.
import { askConnection } from "#inspect/eval/ask-connection.ts";
import type { AskedRequest } from "#inspect/eval/contract.ts";
import { parseDestination, parseSource } from "#inspect/eval/ends.ts";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import type { AskedMesh } from "#inspect/eval/mesh.ts";
import { defaultKubeconfig } from "../cluster/client.ts";
import { askAll, findDaemons } from "../daemons.ts";
import { type Exit, exit, type Format, isDaemonAway, usage } from "../outcome.ts";
import { daemonsOf } from "../where.ts";
import { connectionPage } from "./connection-page.ts";
import { compiled, nodeState, type WrittenOptions, writtenState } from "./state.ts";

export type AskOptions = WrittenOptions & {
  readonly run: readonly string[];
  readonly namespace?: string;
  readonly method?: string;
  readonly path?: string;
  readonly header?: readonly string[];
};

export type Answering = { readonly from: string; readonly inForce: boolean; readonly meshes: ReadonlyMap<string, AskedMesh> };

export async function runConnection(from: string, to: string, options: AskOptions, format: Format): Promise<Exit> {
  const destination = parseDestination(to, options.namespace);
  parseSource(from, options.namespace, ""); // before anything is asked
  const request = parseRequest(options);
  const answering = await whoAnswers(options);
  const [mesh] = answering.meshes.values();
  const source = parseSource(from, options.namespace, mesh?.settings.trustDomain ?? "");
  await using evaluator = startEvaluator();
  const asked = { source, destination, meshes: answering.meshes, ...(request === null ? {} : { request }) };
  const explained = await askConnection(evaluator, asked);
  if ("missing" in explained) throw usage(explained.missing);
  const { answer, contradicted } = explained;
  if (format === "json") console.log(JSON.stringify({ from: answering.from, inForce: answering.inForce, ...explained }, null, 2));
  else {
    if (!answering.inForce)
      console.error("trackbed: an engine has not acknowledged all of this state yet: it may still decide by an older one");
    console.log(connectionPage(explained, answering.from));
    const passesWaypoint = explained.answer.ways.some(({ path }) => path === "waypoint");
    if (request !== null && passesWaypoint && answer.requests.length === 0)
      console.error("trackbed: nodes do not know what waypoints do with requests: ask with --directory or of the cluster");
  }
  return answer.verdict === "allowed" && contradicted.length === 0 ? exit.ok : exit.failed;
}

/** Null when nothing of a request was said. */
function parseRequest({ method, path, header = [] }: AskOptions): AskedRequest | null {
  if (method === undefined && path === undefined && header.length === 0) return null;
  if (path?.startsWith("/") === false) throw usage(`--path ${path}: expected a path such as /cart?id=1`);
  const headers = header.map((text): [string, string] => {
    const [, name = "", value = ""] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):\s*(.*)$/.exec(text) ?? [];
    if (name === "") throw usage(`--header ${text}: expected NAME: VALUE`);
    return [name, value];
  });
  return { method: method ?? "GET", path: path ?? "/", headers };
}

/** Daemons say what their engines hold; documents, what control would make of them. */
export async function whoAnswers(options: AskOptions): Promise<Answering> {
  const written = async (): Promise<Answering> => {
    const state = await writtenState(options);
    return { from: state.from, inForce: true, meshes: new Map([["", compiled(state)]]) };
  };
  if (options.directory !== undefined || daemonsOf(options) === null) return written();
  try {
    const { answers, failures } = await askAll(findDaemons(options.run), nodeState);
    const [failed] = failures;
    if (failed !== undefined) throw failed.error;
    return {
      from: `the daemons of ${answers.map(({ about }) => about.node).join(", ")}`,
      inForce: answers.every(({ about }) => about.inForce),
      meshes: new Map(answers.map(({ about, mesh }) => [about.node, mesh])),
    };
  } catch (error) {
    if (!isDaemonAway(error) || options.run.length > 0) throw error;
    try {
      defaultKubeconfig();
    } catch {
      throw error; // there is no cluster either
    }
    return written();
  }
}
