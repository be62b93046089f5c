// What a change of policy would do to the connections that were seen: each asked of the deciding functions, before and after.
import type { Admit, AdmitAnswer, Judgement, RejectedResource } from "./eval/contract.ts";
import type { Evaluator } from "./eval/evaluator.ts";
import { type AskedMesh, difference, type Known, load, workloadsOf } from "./eval/mesh.ts";
import type { Observations, Observed } from "./observed.ts";
import { type RequestSimulation, requestReplay } from "./simulate-requests.ts";

/** One edge, and what is said of it. */
export type Outcome = { readonly edge: Observed; readonly before: Judgement; readonly after: Judgement };

export type Simulation = {
  readonly edges: number;
  readonly connections: number;
  /** RFC 3339; null without any. */
  readonly first: string | null;
  readonly last: string | null;
  /** Allowed now, and not any more. The most connections first, as in the others. */
  readonly newlyDenied: readonly Outcome[];
  readonly newlyAllowed: readonly Outcome[];
  /** Allowed still, and denied if the dry-run policies were enforced; not so before. */
  readonly wouldDeny: readonly Outcome[];
  /** It depends on what the record does not hold. */
  readonly undecided: readonly Outcome[];
  /** Nobody is there any more. */
  readonly gone: readonly Observed[];
  /** Of what waypoints decide. */
  readonly requests: RequestSimulation;
  /** Connections and requests beyond the edges that are told apart: not replayed. */
  readonly unnamed: number;
  /** Nodes whose part is not in it. */
  readonly missing: readonly string[];
  /** Resources of the change that no engine could use. */
  readonly rejected: readonly RejectedResource[];
};

/** Pods of one workload that are asked: they differ only where policies tell replicas apart. */
const MOST_PODS = 16;

export async function simulate(evaluator: Evaluator, before: AskedMesh, after: AskedMesh, observations: Observations): Promise<Simulation> {
  const find = destinations(workloadsOf(before));
  const asked = observations.edges.map((edge) => ({ edge, questions: questionsOf(edge, find(edge)) }));
  const questions = asked.flatMap(({ questions }) => questions);
  const requests = requestReplay(before, after, observations.requests);
  await load(evaluator, before);
  const now = await evaluator.admit(questions);
  await requests.before(evaluator);
  const rejected = await evaluator.change(difference(before, after));
  const then = await evaluator.admit(questions);
  let at = 0;
  const outcomes = asked.flatMap(({ edge, questions: { length } }): Outcome[] => {
    const of = (answers: readonly AdmitAnswer[]): Judgement => together(answers.slice(at, at + length));
    const outcome = { edge, before: of(now), after: of(then) };
    at += length;
    return length === 0 ? [] : [outcome];
  });
  const { edges } = observations;
  const ofKind = (is: (outcome: Outcome) => boolean): Outcome[] => outcomes.filter(is).sort(byCount);
  return {
    edges: edges.length,
    connections: edges.reduce((sum, { connections }) => sum + connections, 0),
    first: edges.reduce<string | null>((least, { first }) => (least === null || first < least ? first : least), null),
    last: edges.reduce<string | null>((most, { last }) => (most === null || last > most ? last : most), null),
    newlyDenied: ofKind(({ before, after }) => before.verdict === "allowed" && isRefused(after)),
    newlyAllowed: ofKind(({ before, after }) => isRefused(before) && after.verdict === "allowed"),
    wouldDeny: ofKind(({ before, after }) => after.verdict === "allowed" && after.audit !== null && before.audit === null),
    undecided: ofKind(({ before, after }) => after.verdict === "depends" || (before.verdict === "depends" && isRefused(after))),
    gone: asked.filter(({ questions }) => questions.length === 0).map(({ edge }) => edge),
    requests: await requests.after(evaluator),
    unnamed: observations.unnamed,
    missing: observations.missing,
    rejected,
  };
}

const isRefused = ({ verdict }: Judgement): boolean => verdict === "denied" || verdict === "failed";

const byCount = (a: Outcome, b: Outcome): number => b.edge.connections - a.edge.connections;

/** A pod for each address of the client: who has several is asked about with each. */
function questionsOf({ source, port }: Observed, pods: readonly Known[]): Admit[] {
  const addresses = source.addresses.length === 0 ? [null] : source.addresses;
  return pods.flatMap(({ uid }) =>
    addresses.map((address): Admit => ({ id: "", identity: source.identity, address, workload: uid, port })),
  );
}

/** Those that are there now under the name that was seen, else at the address. */
function destinations(known: readonly Known[]): (edge: Observed) => readonly Known[] {
  const byName = new Map<string, Known[]>();
  const byAddress = new Map<string, Known>();
  for (const one of known) {
    if (!one.inMesh) continue;
    for (const name of new Set([one.name, one.workload])) {
      const key = `${one.namespace}/${name}`;
      const same = byName.get(key);
      if (same === undefined) byName.set(key, [one]);
      else if (same.length < MOST_PODS) same.push(one);
    }
    for (const address of one.addresses) byAddress.set(address, one);
  }
  return ({ destination }) => {
    const named = byName.get(`${destination.namespace}/${destination.workload}`);
    if (named !== undefined) return named;
    if (destination.workload !== null) return [];
    return destination.addresses.flatMap((address) => byAddress.get(address) ?? []);
  };
}

/** One verdict of all replicas and addresses: theirs where they agree. */
function together(answers: readonly AdmitAnswer[]): Judgement {
  const [first] = answers;
  if (first === undefined) return { verdict: "failed", code: "E_WORKLOAD_UNKNOWN", reason: "nobody is there", policy: null, audit: null };
  const same = answers.every(({ verdict }) => verdict === first.verdict);
  const { id: _, ...judgement } = answers.find(({ audit }) => audit !== null) ?? first;
  if (same) return judgement;
  const allowed = answers.filter(({ verdict }) => verdict === "allowed").length;
  const reason = `${allowed} of ${answers.length} pairs of pod and client address would be allowed`;
  return { verdict: "depends", code: "", reason, policy: null, audit: null };
}
