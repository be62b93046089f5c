// What a change of policy would do to the requests that were seen at waypoints: each asked of the deciding functions, before and after.
import { create, equals, fromBinary } from "@bufbuild/protobuf";
import { AccessSchema } from "#contract/gen/authorization_pb.ts";
import { RoutesSchema } from "#contract/gen/route_pb.ts";
import type { Judgement, Replay, ReplayAnswer } from "./eval/contract.ts";
import type { Evaluator } from "./eval/evaluator.ts";
import type { AskedMesh } from "./eval/mesh.ts";
import type { ObservedRequest } from "./observed-requests.ts";

/** One kind of request, and what is said of it. */
export type RequestOutcome = {
  readonly request: ObservedRequest;
  readonly before: Judgement;
  readonly after: Judgement;
  /** Fields and answers that `after` depends on, which no record holds. */
  readonly depends: readonly string[];
};

export type RequestSimulation = {
  readonly kinds: number;
  readonly requests: number;
  /** The most requests first, as in the others. */
  readonly newlyDenied: readonly RequestOutcome[];
  readonly newlyAllowed: readonly RequestOutcome[];
  readonly wouldDeny: readonly RequestOutcome[];
  readonly undecided: readonly RequestOutcome[];
  /** Before or after no waypoint serves it: no policy of requests has a part in it then. */
  readonly gone: readonly ObservedRequest[];
};

export type RequestReplay = {
  /** While the evaluator holds the mesh as it is. */
  before(evaluator: Evaluator): Promise<void>;
  /** While it holds the mesh as it would be. */
  after(evaluator: Evaluator): Promise<RequestSimulation>;
};

/** The policies of pods that are asked by their own addresses. */
const OF_PODS = "*";

/** Only of services whose policies change: for the others everything is as it was, also what cannot be decided. */
export function requestReplay(before: AskedMesh, after: AskedMesh, observed: readonly ObservedRequest[]): RequestReplay {
  const isThere = ({ service }: ObservedRequest): boolean =>
    [before, after].every(({ resources }) => resources.has(service === null ? `access/${OF_PODS}` : `routes/${service}`));
  const changes = ({ service }: ObservedRequest): boolean => {
    const name = service ?? OF_PODS;
    const keys = [`access/${name}`, `routes/${name}`, ...backendsOf(after, name).map((backend) => `access/${backend}`)];
    return keys.some((key) => versionOf(before, key) !== versionOf(after, key));
  };
  const there = observed.filter(isThere);
  const asked = there.filter(changes);
  const now = asked.map((request) => questionsOf(request, wasTokenPassed(request)));
  const then = asked.map((request) => questionsOf(request, wasTokenPassed(request) && sameTokens(before, after, request.service)));
  let answered: readonly ReplayAnswer[] = [];

  return {
    before: async (evaluator) => {
      answered = await evaluator.replay(now.flat());
    },
    after: async (evaluator) => {
      const later = await evaluator.replay(then.flat());
      let at = 0;
      const outcomes = asked.map((request, index): RequestOutcome => {
        const length = now[index]?.length ?? 0;
        const [was, is] = [together(answered.slice(at, at + length)), together(later.slice(at, at + length))];
        at += length;
        // What its policies look at is not recorded, but what they said of it is.
        return { request, before: was.verdict === "depends" ? asItWas(request) : was, after: is, depends: is.depends };
      });
      const ofKind = (is: (outcome: RequestOutcome) => boolean): RequestOutcome[] =>
        outcomes.filter(is).sort((a, b) => b.request.requests - a.request.requests);
      return {
        kinds: observed.length,
        requests: observed.reduce((sum, { requests }) => sum + requests, 0),
        newlyDenied: ofKind(({ before, after }) => before.verdict === "allowed" && isRefused(after)),
        newlyAllowed: ofKind(({ before, after }) => isRefused(before) && after.verdict === "allowed"),
        wouldDeny: ofKind(({ before, after }) => after.verdict === "allowed" && after.audit !== null && before.audit === null),
        undecided: ofKind(({ after }) => after.verdict === "depends"),
        gone: observed.filter((request) => !isThere(request)),
      };
    },
  };
}

const isRefused = ({ verdict }: Judgement): boolean => verdict === "denied" || verdict === "failed";

const versionOf = ({ resources }: AskedMesh, key: string): string | undefined => resources.get(key)?.version;

/** Where a service's routes lead: policies of other services may be asked about its requests. */
function backendsOf({ resources }: AskedMesh, service: string): string[] {
  const routes = fromBinary(RoutesSchema, Buffer.from(resources.get(`routes/${service}`)?.body ?? "", "base64"));
  const sets = routes.ports.flatMap(({ producer, consumers }) => [
    ...(producer === undefined ? [] : [producer]),
    ...Object.values(consumers),
  ]);
  const rules = sets.flatMap(({ kind }) => (kind.case === "http" ? kind.value.rules : []));
  return [...new Set(rules.flatMap(({ backends }) => backends.map(({ service }) => service)))];
}

const wasTokenPassed = ({ code }: ObservedRequest): boolean => code !== "E_TOKEN_REFUSED";

function sameTokens(before: AskedMesh, after: AskedMesh, service: string | null): boolean {
  const tokensOf = ({ resources }: AskedMesh) => {
    const body = resources.get(`access/${service ?? OF_PODS}`)?.body ?? "";
    return create(AccessSchema, { tokens: fromBinary(AccessSchema, Buffer.from(body, "base64")).tokens });
  };
  return equals(AccessSchema, tokensOf(before), tokensOf(after));
}

function questionsOf({ source, service, port, method, authority, path }: ObservedRequest, tokenPassed: boolean): Replay[] {
  const addresses = source.addresses.length === 0 ? [null] : source.addresses;
  const asked = { identity: source.identity, service: service ?? OF_PODS, port, method, authority, path, tokenPassed };
  return addresses.map((address) => ({ id: "", address, ...asked }));
}

/** One verdict of all addresses: theirs where they agree. */
function together(answers: readonly ReplayAnswer[]): Judgement & { readonly depends: readonly string[] } {
  const [first] = answers;
  if (first === undefined) throw new Error("a request was not asked about");
  const { id: _, ...judgement } = answers.find(({ audit }) => audit !== null) ?? first;
  if (answers.every(({ verdict }) => verdict === first.verdict)) return judgement;
  const depends = [...new Set(answers.flatMap(({ depends }) => depends).concat("source_ips"))];
  return { verdict: "depends", code: "", reason: `it depends on ${depends.join(", ")}`, policy: null, audit: null, depends };
}

const asItWas = ({ verdict, policy, code }: ObservedRequest): Judgement => ({
  verdict: verdict === "denied" ? "denied" : "allowed",
  code: verdict === "denied" ? (code ?? "") : "",
  reason: verdict === "denied" ? "it was denied when it was seen" : "",
  policy: verdict === "denied" || policy === null ? null : { name: policy, rule: null },
  audit: null,
});
