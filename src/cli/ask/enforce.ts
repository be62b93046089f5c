// `trackbed generate policy NAMESPACE --enforce FILE`: the dry run ends, denials are watched, and it is back as soon as something good is denied.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { FlowRecord } from "#inspect/flow.ts";
import type { Observations } from "#inspect/observed.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import { findDaemons, flows } from "../daemons.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { documentsOf } from "./documents.ts";
import { deniedBy, type GenerateOptions } from "./generate.ts";
import { readObservations } from "./observations.ts";
import { writtenState } from "./state.ts";

const UNITS = { s: 1000, m: 60_000, h: 3_600_000 } as const;
/** A longer watch is what alerts on the metric are for. */
const LONGEST_MS = 24 * UNITS.h;

/** FILE is in the mesh's directory: what is written there is in force at once. */
export async function runEnforce(namespace: string, options: GenerateOptions, format: Format): Promise<Exit> {
  const { enforce: file = "", directory } = options;
  const watchMs = duration(options.watch);
  if (directory === undefined || !resolve(file).startsWith(`${resolve(directory)}/`))
    throw usage("--enforce FILE needs --directory DIR with the file in it; in a cluster change the annotation and watch the metric");
  const dry = readFileSync(file, "utf8");
  const enforced = withoutDryRun(dry, namespace, file);
  const daemons = findDaemons(options.run);
  const [state, observations] = await Promise.all([writtenState(options), readObservations(options)]);
  const denied = await deniedBy(enforced, state, observations);
  if (denied.length > 0) throw new Error(`${denied.length} edges that were seen would be denied: see trackbed simulate ${file}`);

  const good = goodEdges(observations, namespace);
  const stop = new AbortController();
  const over = AbortSignal.any([stop.signal, AbortSignal.timeout(watchMs)]);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  let broken: FlowRecord | null = null;
  const since = new Date().toISOString();
  replace(file, enforced);
  await Promise.all(
    daemons.map(async (daemon) => {
      for await (const line of flows(daemon, true, over, undefined, since)) {
        if (line.type !== "flow" || !isGoodDenied(line.flow, namespace, good)) continue;
        broken ??= line.flow;
        return stop.abort();
      }
    }),
  ).catch((error: unknown) => {
    // Who cannot watch does not leave it in force.
    replace(file, dry);
    throw error;
  });
  return conclude(broken, () => replace(file, dry), format);
}

function conclude(broken: FlowRecord | null, back: () => void, format: Format): Exit {
  if (broken !== null) back();
  if (format === "json") console.log(JSON.stringify({ enforced: broken === null, denied: broken }, null, 2));
  else if (broken === null) console.log("enforced; nothing that was seen before was denied while it was watched");
  else
    console.log(
      `back to dry run: ${broken.source.identity ?? broken.source.address} was denied at ${broken.destination.address}:${broken.destination.port}: ${broken.reason}`,
    );
  return broken === null ? exit.ok : exit.failed;
}

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
