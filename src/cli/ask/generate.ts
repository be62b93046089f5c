// `trackbed generate policy NAMESPACE`: least-privilege policies from what was seen, checked against it before anybody reads them.
import { writeFileSync } from "node:fs";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import { compileMesh, workloadsOf } from "#inspect/eval/mesh.ts";
import { leastPrivilege } from "#inspect/generate/least.ts";
import { coverageOf, leastYaml } from "#inspect/generate/yaml.ts";
import type { Observations } from "#inspect/observed.ts";
import { type Outcome, simulate } from "#inspect/simulate.ts";
import { isLabel } from "#mesh/identity.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { changed, documentsOf } from "./documents.ts";
import { type ObservationOptions, readObservations } from "./observations.ts";
import { type WrittenOptions, type WrittenState, writtenState } from "./state.ts";

export type GenerateOptions = WrittenOptions &
  ObservationOptions & {
    readonly out?: string;
    readonly enforced: boolean;
    readonly enforce?: string;
    readonly watch: string;
  };

export async function runGenerate(namespace: string, options: GenerateOptions, format: Format): Promise<Exit> {
  if (!isLabel(namespace)) throw usage(`${namespace} is not the name of a namespace`);
  const [state, observations] = await Promise.all([writtenState(options), readObservations(options)]);
  const { objects, compiling, encryptSameNode } = state;
  const least = leastPrivilege(namespace, objects, workloadsOf(compileMesh(objects, compiling, encryptSameNode)), observations);
  const coverage = coverageOf(observations, namespace);
  const write = (dryRun: boolean): string => leastYaml(least, coverage, dryRun);
  const denied = await deniedBy(write(false), state, observations);
  const yaml = write(!options.enforced);
  if (options.out !== undefined) writeFileSync(options.out, yaml);
  if (format === "json") console.log(JSON.stringify({ namespace, coverage, least, denied, yaml }, null, 2));
  else if (options.out === undefined) process.stdout.write(yaml);
  for (const outcome of format === "json" ? [] : denied) console.error(`trackbed: with these policies in force ${brief(outcome)}`);
  return denied.length === 0 ? exit.ok : exit.failed;
}

/** What was seen and would be refused. */
export async function deniedBy(
  yaml: string,
  { objects, compiling, encryptSameNode }: WrittenState,
  observations: Observations,
): Promise<readonly Outcome[]> {
  const written = documentsOf(yaml, "the policies");
  const [fault] = written.faults;
  if (fault !== undefined) throw new Error(`${fault.file}:${fault.line}: ${fault.field}: ${fault.reason}`);
  const before = compileMesh(objects, compiling, encryptSameNode);
  const after = compileMesh(changed(objects, written.objects, []), compiling, encryptSameNode);
  await using evaluator = startEvaluator();
  const { newlyDenied, rejected } = await simulate(evaluator, before, after, observations);
  const [unusable] = rejected;
  if (unusable !== undefined) throw new Error(`${unusable.name} cannot be used: ${unusable.reason}`);
  return newlyDenied;
}

const brief = ({ edge: { source, destination, port }, after }: Outcome): string =>
  `${source.identity ?? "a client without identity"} would not reach ${destination.namespace}/${destination.workload}:${port}: ${after.reason}`;
