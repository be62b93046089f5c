// Claims about replaying what was seen: each connection counts once, and what a change does to it is what the deciding functions say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANYBODY, ENABLED, namespace, peer, pod, policy, service, settings } from "#compile/specimen.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { startEvaluator } from "./eval/evaluator.ts";
import { compileMesh } from "./eval/mesh.ts";
import { gatherObserved, type Observations, type Observed } from "./observed.ts";
import { type Simulation, simulate } from "./simulate.ts";

const owned = (name: string, hash: string) => ({ kind: "ReplicaSet", name: `${name}-${hash}` });
const api = (name: string) =>
  pod("shop", name, { app: "api", "pod-template-hash": "x1" }, { owner: owned("api", "x1"), ready: true, phase: "Running" });
const objects: MeshObject[] = [
  namespace("shop", ENABLED),
  pod("shop", "web", { app: "web" }, { serviceAccountName: "web", ready: true, phase: "Running" }),
  api("api-1"),
  api("api-2"),
  service("shop", "api", { app: "api" }),
];
const principal = (name: string) => `cluster.local/ns/shop/sa/${name}`;
const allow = (name: string, ...accounts: string[]) =>
  policy("shop", name, { rules: [{ from: [{ ...ANYBODY, principals: accounts.map(principal) }], to: [], when: [] }] });

const seen = (more: Partial<Observed> & { account?: string | null } = {}): Observed => {
  const { account = "web", ...rest } = more;
  return {
    source: { identity: account === null ? null : `spiffe://${principal(account)}`, namespace: "shop", workload: account, addresses: [] },
    destination: { namespace: "shop", workload: "api", addresses: [] },
    port: 8080,
    service: null,
    verdict: "allowed",
    policy: null,
    connections: 3,
    first: "2026-01-01T00:00:00.000Z",
    last: "2026-01-01T00:01:00.000Z",
    ...rest,
  };
};
const observations = (...edges: Observed[]): Observations => ({
  edges,
  requests: [],
  routes: [],
  unnamed: 0,
  unread: 0,
  unreadExample: null,
  missing: [],
});

async function replay(before: readonly MeshObject[], after: readonly MeshObject[], ...edges: Observed[]): Promise<Simulation> {
  await using evaluator = startEvaluator();
  return await simulate(
    evaluator,
    compileMesh([...objects, ...before], settings),
    compileMesh([...objects, ...after], settings),
    observations(...edges),
  );
}
const names = (outcomes: Simulation["newlyDenied"]): (string | null)[] => outcomes.map(({ edge }) => edge.source.workload);

test("who is allowed now and not by the change is newly denied, by identity and count", async () => {
  const { newlyDenied, newlyAllowed, connections } = await replay(
    [],
    [allow("only-web", "web")],
    seen(),
    seen({ account: "stranger", connections: 40 }),
  );
  assert.deepEqual([names(newlyDenied), newlyAllowed, connections], [["stranger"], [], 43]);
  assert.equal(newlyDenied[0]?.after.code, "E_POLICY_NO_ALLOW");
});

test("who is let in by the change is newly allowed, whatever the record says", async () => {
  const edge = seen({ verdict: "denied" });
  const { newlyDenied, newlyAllowed } = await replay([allow("only-db", "db")], [allow("only-db", "db"), allow("web-too", "web")], edge);
  assert.deepEqual([newlyDenied, names(newlyAllowed)], [[], ["web"]]);
  assert.deepEqual(newlyAllowed[0]?.after.policy, { name: "shop/web-too", rule: 0 });
});

test("a dry-run policy denies nobody, and who would be denied is told", async () => {
  const { newlyDenied, wouldDeny } = await replay([], [{ ...allow("dry", "db"), dryRun: true }], seen());
  assert.deepEqual([newlyDenied, names(wouldDeny)], [[], ["web"]]);
});

test("STRICT mutual TLS newly denies the plaintext that was seen, by count, and tried only it is told of", async () => {
  const plaintext = seen({ account: null, connections: 7 });
  const strict = await replay([], [peer("shop", "strict", "STRICT")], seen(), plaintext);
  assert.deepEqual(
    strict.newlyDenied.map(({ edge, after }) => [edge.source.identity, edge.connections, after.code]),
    [[null, 7, "E_POLICY_STRICT"]],
  );
  const tried = await replay([], [{ ...peer("shop", "strict", "STRICT"), dryRun: true }], seen(), plaintext);
  assert.deepEqual([tried.newlyDenied, tried.wouldDeny.map(({ edge }) => edge.connections)], [[], [7]]);
});

test("what depends on an address that the record does not hold is not decided, and decided where it does", async () => {
  const byAddress = policy("shop", "net", { rules: [{ from: [{ ...ANYBODY, ipBlocks: ["192.0.2.0/24"] }], to: [], when: [] }] });
  const plain = seen({ account: null });
  const at = (address: string) => seen({ account: null, source: { ...plain.source, addresses: [address] } });
  const { newlyDenied, undecided } = await replay([], [byAddress], plain, at("192.0.2.1"), at("198.51.100.1"));
  assert.equal(undecided.length, 1);
  assert.deepEqual(
    newlyDenied.map(({ edge }) => edge.source.addresses),
    [["198.51.100.1"]],
  );
});

test("replicas that a policy tells apart make it depend, and a workload that is gone is told of", async () => {
  const one = { ...api("api-2"), metadata: { ...api("api-2").metadata, labels: { app: "api", canary: "yes" } } };
  const canary = policy("shop", "canary", { selector: { canary: "yes" } });
  const { undecided } = await replay([], [one, canary], seen());
  assert.deepEqual(names(undecided), ["web"]);
  const { gone } = await replay([], [], seen({ destination: { namespace: "shop", workload: "was", addresses: [] } }));
  assert.equal(gone.length, 1);
});

const flow = (id: number, more: object = {}) =>
  JSON.stringify({
    type: "flow",
    sequence: id,
    flow: {
      id: `${id}`,
      phase: "closed",
      direction: "inbound",
      verdict: "allowed",
      policy: null,
      start: `2026-01-01T00:00:0${id}.000Z`,
      source: { address: "10.0.0.1", port: 40000 + id, workload: "web", namespace: "shop", identity: `spiffe://${principal("web")}` },
      destination: { address: "10.0.0.2", port: 8080, workload: "api", namespace: "shop", identity: null },
      service: null,
      podUid: "p",
      request: null,
      ...more,
    },
  });

test("a connection counts once, whatever tells of it, and what is no record is told", () => {
  const gatherer = gatherObserved();
  for (const line of [
    flow(1, { phase: "opened" }),
    flow(1),
    flow(2),
    flow(3, { direction: "outbound" }),
    flow(4, { request: { method: "GET" } }),
    flow(5, { verdict: "denied" }),
    '{"type":"dropped","count":3}',
    "",
    '{"type":"flow","flow":{}}',
  ])
    gatherer.line(line);
  const { edges, requests, unread } = gatherer.done();
  assert.deepEqual(
    edges.map(({ verdict, connections, first, last }) => [verdict, connections, first.slice(17, 19), last.slice(17, 19)]),
    [
      ["allowed", 2, "01", "02"],
      ["denied", 1, "05", "05"],
    ],
  );
  assert.deepEqual([requests.map(({ method }) => method), unread], [["GET"], 1]);
});

test("edges of a ledger are counted where they were decided, and those that stand for others are not given a name", () => {
  const gatherer = gatherObserved();
  const end = { workload: "web", namespace: "shop", identity: `spiffe://${principal("web")}` };
  const edge = (reporter: string, other = false) => ({
    reporter,
    path: "tunnel",
    verdict: "allowed",
    source: end,
    destination: end,
    port: 80,
    request: reporter === "waypoint" ? { method: "GET" } : null,
    other,
  });
  for (const [reporter, other] of [["destination"], ["source"], ["waypoint"], ["destination", true]] as const)
    gatherer.line(JSON.stringify({ type: "edge", time: "2026-01-01T00:00:00.000Z", seconds: 60, count: 5, edge: edge(reporter, other) }));
  const { edges, requests, unnamed } = gatherer.done();
  assert.deepEqual(
    [edges.map(({ connections, last }) => [connections, last]), requests.map(({ requests }) => requests), unnamed],
    [[[5, "2026-01-01T00:01:00.000Z"]], [5], 5],
  );
});

test("records of single connections add to a ledger's edge what it does not keep, and are not counted twice", () => {
  const gatherer = gatherObserved();
  const end = { workload: "web", namespace: "shop", identity: `spiffe://${principal("web")}` };
  const edge = {
    reporter: "destination",
    path: "tunnel",
    verdict: "allowed",
    source: end,
    destination: { ...end, workload: "api" },
    port: 8080,
  };
  gatherer.line(JSON.stringify({ type: "edge", time: "2026-01-01T00:00:00.000Z", seconds: 60, count: 5, edge }));
  for (const line of [
    flow(1),
    flow(2, { destination: { address: "10.0.0.3", port: 9090, workload: "api", namespace: "shop", identity: null } }),
  ])
    gatherer.line(line);
  gatherer.line('{"type":"missing","node":"node-b","reason":"it does not answer"}');
  const { edges, missing } = gatherer.done();
  assert.deepEqual(
    edges.map(({ port, connections, source }) => [port, connections, source.addresses]),
    [
      [8080, 5, ["10.0.0.1"]],
      [9090, 1, ["10.0.0.1"]],
    ],
  );
  assert.deepEqual(missing, ["node-b: it does not answer"]);
});
