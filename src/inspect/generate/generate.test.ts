// Claims about proposed policies: what was seen goes on, what was not is refused, and what people should look at is said.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ENABLED, namespace, pod, policy, service, settings } from "#compile/specimen.ts";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import { compileMesh, load, workloadsOf } from "#inspect/eval/mesh.ts";
import type { MeshObject, Pod } from "#mesh/objects.ts";
import { parseText } from "#source/directory/documents.ts";
import { projectDocument } from "#source/project/project.ts";
import type { Observations, Observed } from "../observed.ts";
import { leastPrivilege } from "./least.ts";
import { coverageOf, leastYaml } from "./yaml.ts";

const up = { ready: true, phase: "Running" } as const;
const named = (name: string, labels: Record<string, string> = { app: name }, more: Partial<Pod> = {}) =>
  pod("shop", name, labels, { ...up, serviceAccountName: name, ...more });
const objects: MeshObject[] = [
  namespace("shop", ENABLED),
  named("web"),
  named("api"),
  named("cache"),
  named("idle"),
  service("shop", "api", { app: "api" }),
  service("shop", "cache", { app: "cache" }, { ports: [{ name: "r", port: 6379, targetPort: 6379, protocol: "TCP", appProtocol: "" }] }),
];

const seen = (from: string | null, to: string, port: number, connections = 100, more: Partial<Observed> = {}): Observed => ({
  source: {
    identity: from === null ? null : `spiffe://cluster.local/ns/shop/sa/${from}`,
    namespace: null,
    workload: from,
    addresses: from === null ? ["192.0.2.7"] : [],
  },
  destination: { namespace: "shop", workload: to, addresses: [] },
  port,
  service: null,
  verdict: "allowed",
  policy: null,
  connections,
  first: "2026-01-01T00:00:00.000Z",
  last: "2026-01-03T12:00:00.000Z",
  ...more,
});
const observed = (...edges: Observed[]): Observations => ({
  edges,
  requests: [],
  routes: [],
  unnamed: 0,
  unread: 0,
  unreadExample: null,
  missing: [],
});

function generate(observations: Observations, all: readonly MeshObject[] = objects, dryRun = false) {
  const least = leastPrivilege("shop", all, workloadsOf(compileMesh(all, settings)), observations);
  const yaml = leastYaml(least, coverageOf(observations, "shop"), dryRun);
  const policies = parseText(yaml).documents.map(({ value }) => {
    const { object, problems } = projectDocument(value);
    assert.deepEqual(problems, [], yaml);
    assert.ok(object?.kind === "AuthorizationPolicy", yaml);
    return object;
  });
  return { least, yaml, policies };
}

const ACCOUNTS = ["web", "api", "cache", "idle", "stranger", null] as const;
const PORTS = [8080, 6379, 9090];

/** "from>to:port" of everything that is let in. */
async function admitted(policies: readonly MeshObject[], all: readonly MeshObject[] = objects): Promise<string[]> {
  await using evaluator = startEvaluator();
  const mesh = compileMesh([...all, ...policies], settings);
  assert.deepEqual(mesh.faults, []);
  assert.deepEqual(await load(evaluator, mesh), []);
  const questions = workloadsOf(mesh).flatMap(({ uid, name }) =>
    ACCOUNTS.flatMap((account) =>
      PORTS.map((port) => ({
        id: `${account ?? "plaintext"}>${name}:${port}`,
        identity: account === null ? null : `spiffe://cluster.local/ns/shop/sa/${account}`,
        address: account === null ? "192.0.2.7" : "10.0.0.99",
        workload: uid,
        port,
      })),
    ),
  );
  return (await evaluator.admit(questions)).filter(({ verdict }) => verdict === "allowed").map(({ id }) => id);
}

test("exactly what was seen is admitted: each identity, at each port", async () => {
  const { policies } = generate(
    observed(seen("web", "api", 8080), seen("api", "cache", 6379), seen("web", "cache", 6379, 1), seen(null, "web", 8080)),
  );
  assert.deepEqual((await admitted(policies)).sort(), ["api>cache:6379", "plaintext>web:8080", "web>api:8080", "web>cache:6379"]);
});

test("with dry run nothing is refused", async () => {
  const { policies, yaml } = generate(observed(seen("web", "api", 8080)), objects, true);
  assert.equal((await admitted(policies)).length, ACCOUNTS.length * PORTS.length * 4);
  assert.match(yaml, /istio\.io\/dry-run: "true"/);
});

test("what is rare, was refused or was never seen is said, and how long it was watched", () => {
  const denied = seen("stranger", "cache", 6379, 7, { verdict: "denied", policy: "shop/x" });
  const { yaml } = generate(observed(seen("web", "api", 8080), seen("idle", "api", 9090, 1), denied));
  assert.match(yaml, /# Seen: 108 connections of 3 edges, 2026-01-01T00:00:00.000Z to 2026-01-03T12:00:00.000Z \(60 hours\)\./);
  assert.match(yaml, /# RARE, look at it: seen once\n/);
  assert.match(
    yaml,
    /# Refused while it was watched, and left out: spiffe:\/\/cluster\.local\/ns\/shop\/sa\/stranger at port 6379, 7 times/,
  );
  assert.match(yaml, /# {3}Service cache port 6379\n/);
  assert.doesNotMatch(yaml, /# {3}Service api port 80\n/);
  assert.ok(yaml.indexOf('ports: ["8080"]') < yaml.indexOf("RARE"), "rare edges come behind the others");
});

test("workloads that no label tells apart share a policy, and one without labels keeps the rest open and is said", async () => {
  const twins = [...objects, named("left", { tier: "back" }), named("right", { tier: "back" })];
  const { least, policies } = generate(observed(seen("web", "left", 8080), seen("api", "right", 8080)), twins);
  assert.deepEqual(
    least.workloads.filter(({ names }) => names.length > 1).map(({ names, selector }) => [names, selector]),
    [[["left", "right"], { tier: "back" }]],
  );
  const to = (await admitted(policies, twins)).filter((one) => /left|right/.test(one)).sort();
  assert.deepEqual(to, ["api>left:8080", "api>right:8080", "web>left:8080", "web>right:8080"]);
  const bare = [...objects, named("bare", {})];
  const open = generate(observed(seen("web", "bare", 8080)), bare);
  assert.deepEqual(open.least.unselectable, ["bare"]);
  assert.ok((await admitted(open.policies, bare)).includes("web>bare:8080"));
});

test("labels of one version or one pod are no selector", () => {
  const { least } = generate(observed(), [namespace("shop", ENABLED), named("web", { "pod-template-hash": "1", app: "web" })]);
  assert.deepEqual(least.workloads[0]?.selector, { app: "web" });
  assert.deepEqual(generate(observed(), [namespace("shop", ENABLED), named("web", { "pod-template-hash": "1" })]).least.unselectable, [
    "web",
  ]);
});

test("policies that are there already stay in force beside the proposed ones", async () => {
  const deny = policy("shop", "no-web", { action: "DENY", rules: [{ from: [], to: [], when: [] }] });
  const { policies } = generate(observed(seen("web", "api", 8080)));
  assert.deepEqual(await admitted([...policies, deny]), []);
});
