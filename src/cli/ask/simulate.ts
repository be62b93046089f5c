// `trackbed simulate FILE`: what would newly be denied or allowed of the connections that were seen, if FILE were applied. Made for CI.
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import { compileMesh } from "#inspect/eval/mesh.ts";
import type { Observed } from "#inspect/observed.ts";
import type { ObservedRequest } from "#inspect/observed-requests.ts";
import { type Outcome, type Simulation, simulate } from "#inspect/simulate.ts";
import type { RequestOutcome, RequestSimulation } from "#inspect/simulate-requests.ts";
import { keyOf, type ObjectKey } from "#mesh/objects.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { paint, type Style, table } from "../table.ts";
import { changed, type DocumentFault, readDocuments } from "./documents.ts";
import { type ObservationOptions, readObservations } from "./observations.ts";
import { type WrittenOptions, writtenState } from "./state.ts";

export type SimulateOptions = WrittenOptions & ObservationOptions & { readonly remove: readonly string[]; readonly strict: boolean };

type Faults = {
  /** Documents that could not be read whole. */
  readonly documents: readonly DocumentFault[];
  /** Objects of the change that would be in force in another way than they are written. */
  readonly objects: readonly { readonly key: string; readonly field: string; readonly reason: string }[];
};

export async function runSimulate(files: readonly string[], options: SimulateOptions, format: Format): Promise<Exit> {
  const remove = options.remove.map(parseKey);
  if (files.length + remove.length === 0) throw usage("expected a file of documents, or --remove KIND/NAMESPACE/NAME");
  const read = await Promise.all(files.map(readDocuments));
  const [current, observations] = await Promise.all([writtenState(options), readObservations(options)]);
  const put = read.flatMap(({ objects }) => objects);
  const before = compileMesh(current.objects, current.compiling, current.encryptSameNode);
  const after = compileMesh(changed(current.objects, put, remove), current.compiling, current.encryptSameNode);
  const own = new Set<string>(put.map(keyOf));
  const faults: Faults = {
    documents: read.flatMap(({ faults }) => faults),
    objects: after.faults.filter(({ key }) => own.has(key)).map(({ key, field, reason }) => ({ key, field, reason })),
  };
  await using evaluator = startEvaluator();
  const simulation = await simulate(evaluator, before, after, observations);
  const { requests, undecided, unnamed, missing } = simulation;
  const safe =
    simulation.newlyDenied.length + requests.newlyDenied.length === 0 &&
    faults.documents.length + faults.objects.length === 0 &&
    (!options.strict || undecided.length + requests.undecided.length + unnamed + missing.length === 0);
  if (format === "json") console.log(JSON.stringify({ safe, from: current.from, faults, ...simulation }, null, 2));
  else console.log(page(simulation, faults, current.from));
  return safe ? exit.ok : exit.failed;
}

function parseKey(text: string): ObjectKey {
  const fits = /^(AuthorizationPolicy|PeerAuthentication|RequestAuthentication)\/([a-z0-9-]+)\/([a-z0-9.-]+)$/.test(text);
  if (!fits)
    throw usage(`--remove ${text}: expected KIND/NAMESPACE/NAME of an AuthorizationPolicy, PeerAuthentication or RequestAuthentication`);
  return text as ObjectKey;
}

function page(simulation: Simulation, faults: Faults, from: string): string {
  const { edges, connections, first, last, newlyDenied, newlyAllowed, wouldDeny, undecided, gone, requests, unnamed, rejected } =
    simulation;
  const ofRequests = requests.kinds === 0 ? "" : `; ${requests.requests} requests of ${requests.kinds} kinds`;
  const seen =
    edges + requests.kinds === 0
      ? "nothing was seen"
      : `${connections} connections of ${edges} edges${edges === 0 ? "" : `, ${first} to ${last}`}${ofRequests}`;
  const lists = [simulation, requests].flatMap((one) => [one.newlyDenied, one.newlyAllowed, one.wouldDeny, one.undecided]);
  const none = faults.documents.length + faults.objects.length + rejected.length + lists.flat().length === 0;
  return [
    `${paint(seen, "bold")}\n${paint(`replayed against ${from}`, "dim")}`,
    ...faults.documents.map(({ file, line, field, reason }) =>
      paint(`${file}:${line}: ${field === "" ? "" : `${field}: `}${reason}`, "red"),
    ),
    ...faults.objects.map(({ key, field, reason }) => paint(`${key}: ${field}: ${reason}`, "red")),
    ...rejected.map(({ name, code, reason }) => paint(`${name}: ${code}: ${reason}`, "red")),
    outcomes("NEWLY DENIED", newlyDenied, "red", ({ after }) => why(after)),
    outcomes("NEWLY ALLOWED", newlyAllowed, "yellow", ({ before, after }) => `${why(after)}; until now ${why(before)}`),
    outcomes("WOULD BE DENIED without dry run", wouldDeny, "yellow", ({ after }) => `${after.audit?.code}: ${after.audit?.reason}`),
    outcomes("NOT DECIDED", undecided, "yellow", ({ after }) => after.reason),
    requestPage(requests),
    gone.length === 0 ? "" : `${gone.length} edges lead to workloads that are not there any more: ${some(gone.map(destinationOf))}`,
    unnamed === 0 ? "" : `${unnamed} connections and requests were not told apart when they were counted, and not replayed`,
    ...simulation.missing.map((one) => paint(`not in it: ${one}`, "yellow")),
    none ? paint("nothing changes for what was seen", "green") : "",
  ]
    .filter(Boolean)
    .join("\n\n");
}

function outcomes(title: string, list: readonly Outcome[], style: Style, why: (outcome: Outcome) => string): string {
  if (list.length === 0) return "";
  const rows = list.map((outcome) => [
    sourceOf(outcome.edge),
    destinationOf(outcome.edge),
    String(outcome.edge.connections),
    outcome.edge.last,
    why(outcome),
  ]);
  return `${paint(title, style)}\n${table(["SOURCE", "DESTINATION", "CONNECTIONS", "LAST", "WHY"], rows)}`;
}

function requestPage({ newlyDenied, newlyAllowed, wouldDeny, undecided, gone }: RequestSimulation): string {
  const fields = [...new Set(undecided.flatMap(({ depends }) => depends))].sort();
  return [
    requestOutcomes("REQUESTS NEWLY DENIED", newlyDenied, "red", ({ after }) => why(after)),
    requestOutcomes("REQUESTS NEWLY ALLOWED", newlyAllowed, "yellow", ({ before, after }) => `${why(after)}; until now ${why(before)}`),
    requestOutcomes("REQUESTS THAT WOULD BE DENIED without dry run", wouldDeny, "yellow", ({ after }) =>
      why({ ...after, ...after.audit, verdict: "denied" }),
    ),
    requestOutcomes("REQUESTS NOT DECIDED", undecided, "yellow", ({ after }) => after.reason),
    fields.length === 0 ? "" : `to decide these, records would have to hold: ${fields.join(", ")}`,
    gone.length === 0
      ? ""
      : `${gone.length} kinds of requests are of services that no waypoint serves, before or after: ${some(gone.map(requestOf))}`,
  ]
    .filter(Boolean)
    .join("\n\n");
}

function requestOutcomes(title: string, list: readonly RequestOutcome[], style: Style, why: (outcome: RequestOutcome) => string): string {
  if (list.length === 0) return "";
  const rows = list.map((outcome) => {
    const { request } = outcome;
    return [sourceOf(request), requestOf(request), String(request.requests), request.last, why(outcome)];
  });
  return `${paint(title, style)}\n${table(["SOURCE", "REQUEST", "COUNT", "LAST", "WHY"], rows)}`;
}

const requestOf = ({ service, port, method, authority, path }: ObservedRequest): string =>
  `${method ?? "any method"} ${authority ?? ""}${path ?? " any path"} of ${service ?? "a pod"}${port === null ? "" : `:${port}`}`;

const why = ({ verdict, code, reason, policy }: Outcome["after"]): string => {
  if (verdict !== "allowed") return [code, reason].filter(Boolean).join(": ");
  return policy === null ? "no policy refuses it" : `allowed by ${policy.name} rule ${policy.rule}`;
};

const sourceOf = ({ source }: Pick<Observed, "source">): string =>
  source.identity ??
  `plaintext${source.workload === null ? "" : ` ${source.namespace}/${source.workload}`} ${source.addresses.slice(0, 2).join(", ")}`;

const destinationOf = ({ destination, port }: Observed): string =>
  `${destination.workload === null ? destination.addresses.join(", ") : `${destination.namespace}/${destination.workload}`}:${port}`;

const SHOWN = 5;
const some = (names: readonly string[]): string => `${names.slice(0, SHOWN).join(", ")}${names.length > SHOWN ? " …" : ""}`;
