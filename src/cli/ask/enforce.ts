// `trackbed generate policy NAMESPACE --enforce FILE`: the dry run ends, denials are watched, and it is back as soon as something good is denied.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import { NOTHING_ELSE } from "#inspect/generate/yaml.ts";
import { merge } from "#inspect/merge.ts";
import type { Observations } from "#inspect/observed.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import { explainError } from "#mesh/error.ts";
import { keyOf, type MeshObject } from "#mesh/objects.ts";
import { connectApi } from "#source/kubernetes/api.ts";
import { askerThrough } from "../cluster/ask.ts";
import { defaultKubeconfig } from "../cluster/client.ts";
import { findDaemons, flows } from "../daemons.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { documentsOf } from "./documents.ts";
import { type Enforcement, inCluster } from "./enforce-cluster.ts";
import { deniedBy, type GenerateOptions } from "./generate.ts";
import { readObservations } from "./observations.ts";
import { type WrittenState, writtenState } from "./state.ts";

const UNITS = { s: 1000, m: 60_000, h: 3_600_000 } as const;
/** A longer watch is what alerts on the metric are for. */
const LONGEST_MS = 24 * UNITS.h;

export async function runEnforce(namespace: string, options: GenerateOptions, format: Format): Promise<Exit> {
  const { enforce: file = "", directory } = options;
  const watchMs = duration(options.watch);
  if (directory !== undefined && !resolve(file).startsWith(`${resolve(directory)}/`))
    throw usage("--enforce FILE with --directory DIR: the file must be in it, for what is written there is in force");
  const dry = readFileSync(file, "utf8");
  const enforced = withoutDryRun(dry, namespace, file);
  const [state, observations] = await Promise.all([writtenState(options), readObservations(options)]);
  const denied = await deniedBy(enforced, state, observations);
  if (denied.length > 0) throw new Error(`${denied.length} edges that were seen would be denied: see trackbed simulate ${file}`);
  const [missing] = observations.missing;
  if (directory === undefined && missing !== undefined) throw new Error(`nothing is enforced where nobody watches: ${missing}`);

  const good = goodEdges(observations, namespace);
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  if (directory !== undefined) return watched(inDirectory(file, dry, enforced, options.run), { namespace, good, watchMs, stop, format });
  sameAsApplied(documentsOf(enforced, file).objects, state, file);
  const api = await connectApi(
    options.kubeconfig ?? defaultKubeconfig(),
    options.context === undefined ? {} : { context: options.context },
  );
  try {
    const asker = askerThrough(api, options.account ?? null);
    const place = inCluster({ api, asker, namespace, policies: inOrder(documentsOf(enforced, file).objects) });
    return await watched(place, { namespace, good, watchMs, stop, format });
  } finally {
    await api.close();
  }
}

type Watch = {
  readonly namespace: string;
  readonly good: ReadonlySet<string>;
  readonly watchMs: number;
  /** Aborted by Ctrl-C. */
  readonly stop: AbortController;
  readonly format: Format;
};

/** Whatever ends it before its time ends with the dry run. */
export async function watched(place: Enforcement, { namespace, good, watchMs, stop, format }: Watch): Promise<Exit> {
  const seen = new AbortController();
  const over = AbortSignal.any([stop.signal, seen.signal, AbortSignal.timeout(watchMs)]);
  const since = new Date();
  let broken: FlowRecord | null = null;
  try {
    await place.enforce();
    for await (const flow of place.denials(since, over))
      if (isGoodDenied(flow, namespace, good)) {
        broken = flow;
        break;
      }
  } catch (error) {
    await place.back();
    throw new Error(`back to dry run: ${explainError(error)}`, { cause: error });
  } finally {
    seen.abort();
  }
  const isWhole = broken === null && !stop.signal.aborted;
  if (!isWhole) await place.back();
  if (format === "json") console.log(JSON.stringify({ enforced: isWhole, denied: broken }, null, 2));
  else console.log(conclusionOf(broken, isWhole));
  return isWhole ? exit.ok : exit.failed;
}

function conclusionOf(broken: FlowRecord | null, isWhole: boolean): string {
  if (broken !== null)
    return `back to dry run: ${broken.source.identity ?? broken.source.address} was denied at ${broken.destination.address}:${broken.destination.port}: ${broken.reason}`;
  return isWhole
    ? "enforced; nothing that was seen before was denied while it was watched"
    : "back to dry run: the watch was ended before its time";
}

/** FILE is in the mesh's directory: what is written there is in force at once. */
function inDirectory(file: string, dry: string, enforced: string, run: readonly string[]): Enforcement {
  const daemons = findDaemons(run);
  return {
    enforce: async () => replace(file, enforced),
    back: async () => replace(file, dry),
    denials: async function* (since, over) {
      const followed = daemons.map((daemon) => untilOver(flows(daemon, true, over, undefined, since.toISOString()), daemon.run, over));
      for await (const { line } of merge(followed, false)) if (line.type === "flow") yield line.flow;
    },
  };
}

async function* untilOver(lines: AsyncGenerator<FlowLine>, run: string, over: AbortSignal) {
  for await (const line of lines) yield { time: 0, line };
  if (!over.aborted) throw new Error(`the daemon at ${run} ended`);
}

/** What is enforced is what was replayed. */
function sameAsApplied(written: readonly MeshObject[], { objects }: WrittenState, file: string): void {
  const held = new Map(objects.map((object) => [keyOf(object), object]));
  for (const object of written) {
    const applied = held.get(keyOf(object));
    const isSame = applied?.kind === "AuthorizationPolicy" && applied.dryRun && saidBy({ ...applied, dryRun: false }) === saidBy(object);
    if (!isSame)
      throw usage(
        `${object.metadata.namespace}/${object.metadata.name} is not in the cluster as ${file} has it, with its dry run: kubectl apply -f ${file}`,
      );
  }
}

const saidBy = ({ metadata: _, ...said }: MeshObject): string => JSON.stringify(said);

/** Before the one that admits nobody the others admit whom they should. */
const inOrder = (objects: readonly MeshObject[]): string[] =>
  objects.map(({ metadata }) => metadata.name).sort((a, b) => Number(a === NOTHING_ELSE) - Number(b === NOTHING_ELSE) || (a < b ? -1 : 1));

/** The file as it is but for the annotation, so that comments and reviews stay. */
function withoutDryRun(text: string, namespace: string, file: string): string {
  const enforced = text.replaceAll(new RegExp(`^(\\s*["']?${DRY_RUN}["']?:\\s*)["']true["']`, "gm"), '$1"false"');
  const { objects, faults } = documentsOf(enforced, file);
  const [fault] = faults;
  if (fault !== undefined) throw usage(`${fault.file}:${fault.line}: ${fault.reason}`);
  for (const object of objects)
    if (object.kind !== "AuthorizationPolicy" || object.metadata.namespace !== namespace || object.dryRun)
      throw usage(`${file}: ${object.kind} ${object.metadata.name} is no dry-run AuthorizationPolicy of namespace ${namespace}`);
  if (enforced === text) throw usage(`${file} has no ${DRY_RUN}: "true" to end`);
  return enforced;
}

const edgeKey = (identity: string | null, workload: string | null, port: number): string => `${identity ?? ""} ${workload ?? ""} ${port}`;

const goodEdges = ({ edges }: Observations, namespace: string): ReadonlySet<string> =>
  new Set(
    edges
      .filter(({ destination, verdict }) => destination.namespace === namespace && verdict === "allowed")
      .map(({ source, destination, port }) => edgeKey(source.identity, destination.workload, port)),
  );

const isGoodDenied = (
  { direction, verdict, code, source, destination }: FlowRecord,
  namespace: string,
  good: ReadonlySet<string>,
): boolean =>
  direction === "inbound" &&
  verdict === "denied" &&
  code === "E_POLICY_NO_ALLOW" &&
  destination.namespace === namespace &&
  good.has(edgeKey(source.identity, destination.workload, destination.port));

/** Whole or not at all, and never seen half written. */
function replace(file: string, text: string): void {
  const next = `${dirname(file)}/.${process.pid}.next`;
  writeFileSync(next, text);
  renameSync(next, file);
}

function duration(text: string): number {
  const [, count = "", unit = "s"] = /^([1-9]\d*)([smh])$/.exec(text) ?? [];
  const milliseconds = Number(count) * UNITS[unit as keyof typeof UNITS];
  if (count === "" || milliseconds > LONGEST_MS) throw usage(`--watch ${text}: expected a duration such as 10m, at most 24h`);
  return milliseconds;
}
