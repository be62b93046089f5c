// Claims about policies of a cluster that begin to be enforced: what was good and is denied ends it, and so does everything that leaves us blind.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { FlowRecord } from "#inspect/flow.ts";
import type { AnswerLine } from "#inspect/question.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import type { ApiRequest } from "#source/kubernetes/api.ts";
import { watched } from "./enforce.ts";
import { inCluster } from "./enforce-cluster.ts";

const POLICIES = ["least-api", "least-nothing-else"];
const WEB = "spiffe://cluster.local/ns/shop/sa/web";
const GOOD = new Set([`${WEB} api 8080`]);

const denial = (identity: string): AnswerLine => {
  const flow = {
    ...{ id: "1", phase: "closed", direction: "inbound", verdict: "denied", code: "E_POLICY_NO_ALLOW", reason: "no ALLOW admits it" },
    source: { identity, address: "10.0.0.1" },
    destination: { namespace: "shop", workload: "api", address: "10.0.0.2", port: 8080 },
  };
  return { type: "flow", sequence: 1, flow: flow as unknown as FlowRecord };
};

type World = { readonly answer: () => AnswerLine[]; readonly fails?: (request: ApiRequest, before: number) => boolean };

/** What the annotations are in the end, in which order they came there, and what was told. */
async function enforcing({ answer, fails = () => false }: World, end: { readonly watchMs: number; readonly stop?: AbortController }) {
  const [dry, order, events] = [new Map(POLICIES.map((name) => [name, "true"])), [] as string[], [] as string[]];
  let calls = 0;
  const call = async (request: ApiRequest): Promise<unknown> => {
    if (fails(request, calls++)) throw new Error("the API server is away");
    const { path, body } = request as { path: string; body: { reason?: string; metadata: { annotations?: Record<string, string> } } };
    const name = path.split("/").at(-1) ?? "";
    if (body.reason !== undefined) events.push(body.reason);
    else {
      assert.equal(path, `/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/${name}`);
      dry.set(name, body.metadata.annotations?.[DRY_RUN] ?? "");
      order.push(`${name} ${dry.get(name)}`);
    }
    return {};
  };
  async function* ask(): AsyncGenerator<AnswerLine> {
    yield* answer();
  }
  const place = inCluster({ api: { call }, asker: { ask }, namespace: "shop", policies: POLICIES, pollMs: 1 });
  const stop = end.stop ?? new AbortController();
  const outcome = await watched(place, { namespace: "shop", good: GOOD, watchMs: end.watchMs, stop, format: "json" }).catch(
    (error: unknown) => error as Error,
  );
  return { outcome, dry: [...dry.values()], order, events };
}

test("what nobody misses stays enforced when its time is over, and the namespace is told", async () => {
  const { outcome, dry, order, events } = await enforcing(
    { answer: () => [denial("spiffe://cluster.local/ns/shop/sa/stranger")] },
    { watchMs: 30 },
  );
  assert.deepEqual([outcome, dry, events], [0, ["false", "false"], ["PoliciesEnforced"]]);
  assert.deepEqual(order, ["least-api false", "least-nothing-else false"], "what denies everybody else comes last");
});

test("the first denial of an edge that was seen puts the dry run back, that which denies the most first", async () => {
  const { outcome, dry, order, events } = await enforcing({ answer: () => [denial(WEB)] }, { watchMs: 60_000 });
  assert.deepEqual([outcome, dry, events], [1, ["true", "true"], ["PoliciesEnforced", "PoliciesDryRun"]]);
  assert.deepEqual(order.slice(2), ["least-nothing-else true", "least-api true"]);
});

test("who ends the watch before its time ends what was not watched", async () => {
  const stop = new AbortController();
  const answer = (): AnswerLine[] => {
    stop.abort();
    return [];
  };
  const { outcome, dry } = await enforcing({ answer }, { watchMs: 60_000, stop });
  assert.deepEqual([outcome, dry], [1, ["true", "true"]]);
});

test("a policy that cannot be enforced takes back those that are, also when the API server is away for a moment", async () => {
  const fails = ({ path }: ApiRequest, before: number): boolean => path.endsWith("nothing-else") && before < 6;
  const { outcome, dry } = await enforcing({ answer: () => [], fails }, { watchMs: 60_000 });
  assert.match(String(outcome), /back to dry run: .*the API server is away/);
  assert.deepEqual(dry, ["true", "true"]);
});

test("where the way back fails, what is in force and what ends it is said", async () => {
  const fails = (_: ApiRequest, before: number): boolean => before > 2;
  const { outcome, dry } = await enforcing({ answer: () => [denial(WEB)], fails }, { watchMs: 60_000 });
  assert.deepEqual(dry, ["false", "false"]);
  assert.match(String(outcome), /least-nothing-else, least-api of namespace shop are STILL IN FORCE/);
  assert.match(
    String(outcome),
    /kubectl -n shop annotate authorizationpolicy least-nothing-else least-api istio.io\/dry-run=true --overwrite/,
  );
});

test("a node that nobody watches, or a control that does not answer, ends it when it lasts", async (t) => {
  t.mock.timers.enable({ apis: ["Date"] });
  const answer = (): AnswerLine[] => {
    t.mock.timers.setTime(Date.now() + 6000);
    return [{ type: "missing", node: "node-b", reason: "its daemon is attached to no replica of control" }];
  };
  const { outcome, dry } = await enforcing({ answer }, { watchMs: 60_000 });
  assert.match(String(outcome), /back to dry run: denials could not be watched: node-b is not watched/);
  assert.deepEqual(dry, ["true", "true"]);
});
