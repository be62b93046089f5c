// Claims about asking the deciding functions: what documents say is what the answer is about, and names mean whom people mean.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { ANYBODY, ENABLED, namespace, pod, policy, service, settings } from "#compile/specimen.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { parseText } from "#source/directory/documents.ts";
import { projectDocument } from "#source/project/project.ts";
import { askConnection } from "./ask-connection.ts";
import { parseDestination, parseSource, pickWorkload } from "./ends.ts";
import { type Evaluator, startEvaluator } from "./evaluator.ts";
import { compileMesh, difference, load, workloadsOf } from "./mesh.ts";

const HTTP = { ready: true, phase: "Running" } as const;
const web = pod("shop", "web", { app: "web" }, { ...HTTP, nodeName: "a", serviceAccountName: "web" });
const api = pod("shop", "api", { app: "api" }, { ...HTTP, nodeName: "b", serviceAccountName: "api" });
const objects: MeshObject[] = [namespace("shop", ENABLED), web, api, service("shop", "api", { app: "api" })];
const onlyDb = policy("shop", "only-db", {
  rules: [{ from: [{ ...ANYBODY, principals: ["cluster.local/ns/shop/sa/db"] }], to: [], when: [] }],
});
const allowDb = { ...onlyDb, metadata: { ...onlyDb.metadata } };

async function asked(evaluator: Evaluator, meshes: ReadonlyMap<string, ReturnType<typeof compileMesh>>, source = "pod/web") {
  const explained = await askConnection(evaluator, {
    source: parseSource(source, undefined, "cluster.local"),
    destination: parseDestination("api:80", undefined),
    meshes,
  });
  assert.ok(!("missing" in explained), JSON.stringify(explained));
  return explained;
}

test("documents are compiled and decided as on a node, and the field that fails is named", async () => {
  await using evaluator = startEvaluator();
  const open = await asked(evaluator, new Map([["", compileMesh(objects, settings)]]));
  assert.deepEqual(
    [open.answer.verdict, open.answer.ways[0]?.path, open.answer.resolution?.service],
    ["allowed", "tunnel", "shop/api.shop.svc.cluster.local"],
  );
  const closed = await asked(evaluator, new Map([["", compileMesh([...objects, onlyDb], settings)]]));
  assert.deepEqual([closed.answer.verdict, closed.answer.policy], ["denied", { name: "shop/only-db", rule: null }]);
  const miss = closed.answer.ways[0]?.considered[0]?.rules[0]?.misses[0];
  assert.deepEqual(miss, {
    field: "clauses[0].matches[0].principals",
    wants: "cluster.local/ns/shop/sa/db",
    has: "cluster.local/ns/shop/sa/web",
  });
});

test("an endpoint's own node has the last word, where it holds another state", async () => {
  await using evaluator = startEvaluator();
  const meshes = new Map([
    ["a", compileMesh(objects, settings)],
    ["b", compileMesh([...objects, allowDb], settings)],
  ]);
  const { answer, contradicted } = await asked(evaluator, meshes);
  assert.equal(answer.verdict, "allowed");
  assert.deepEqual(
    contradicted.map(({ node, verdict, code }) => [node, verdict, code]),
    [["b", "denied", "E_POLICY_NO_ALLOW"]],
  );
});

const SHOP = fileURLToPath(new URL("../../../examples/shop", import.meta.url));
const STOCK_POLICY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: stock-get, namespace: shop }
spec:
  targetRefs: [{ group: "", kind: Service, name: stock }]
  rules:
    - from: [{ source: { principals: [cluster.local/ns/shop/sa/shopper] } }]
      to: [{ operation: { methods: [GET], paths: ["/", "/items/*"] } }]
`;

test("a request is decided as at the waypoint on its way: each policy with the field that fails, and the rule that it takes", async () => {
  await using evaluator = startEvaluator();
  const texts = globSync(`${SHOP}/*.yaml`).map((file) => readFileSync(file, "utf8"));
  const shop = [...texts, STOCK_POLICY].flatMap((text) =>
    parseText(text).documents.flatMap(({ value }) => {
      const { object, problems } = projectDocument(value);
      assert.deepEqual(problems, []);
      return object === null ? [] : [object];
    }),
  );
  const ask = async (source: string, method: string, path: string) => {
    const explained = await askConnection(evaluator, {
      source: parseSource(source, undefined, "cluster.local"),
      destination: parseDestination("stock.shop:80", undefined),
      meshes: new Map([["", compileMesh(shop, settings)]]),
      request: { method, path, headers: [] },
    });
    assert.ok(!("missing" in explained), JSON.stringify(explained));
    assert.deepEqual(explained.rejected, []);
    return explained.answer;
  };
  const good = await ask("pod/shopper", "GET", "/items/7?all");
  assert.deepEqual([good.verdict, good.policy, good.ways[0]?.path], ["allowed", { name: "shop/stock-get", rule: 0 }, "waypoint"]);
  assert.deepEqual(
    [good.requests[0]?.route, good.requests[0]?.backends.map(({ service, weight }) => [service.split(".")[0], weight])],
    [
      "HTTPRoute/shop/stock/0",
      [
        ["shop/stock-v1", 9],
        ["shop/stock-v2", 1],
      ],
    ],
  );
  const bad = await ask("pod/shopper", "DELETE", "/items/7");
  assert.deepEqual([bad.verdict, bad.code, bad.requests[0]?.considered[0]?.rules[0]?.fields], ["denied", "E_POLICY_NO_ALLOW", ["methods"]]);
  assert.deepEqual((await ask("pod/shopper", "GET", "/admin")).requests[0]?.considered[0]?.rules[0]?.fields, ["paths"]);
  assert.equal((await ask("pod/web", "GET", "/")).verdict, "denied");
});

test("what makes one mesh of another is what changed, and gives the same answers as a new beginning", async () => {
  await using evaluator = startEvaluator();
  const [before, after] = [compileMesh(objects, settings), compileMesh([...objects, onlyDb], settings)];
  const question = {
    id: "1",
    identity: "spiffe://cluster.local/ns/shop/sa/web",
    address: null,
    workload: "Kubernetes//Pod/shop/api",
    port: 8080,
  };
  const verdict = async (): Promise<string | undefined> => (await evaluator.admit([question]))[0]?.verdict;
  await load(evaluator, before);
  assert.equal(await verdict(), "allowed");
  const change = difference(before, after);
  assert.deepEqual([change.upsert.map(({ name }) => name), change.remove], [["shop/only-db"], []]);
  await evaluator.change(change);
  assert.equal(await verdict(), "denied");
  await evaluator.change(difference(after, before));
  assert.equal(await verdict(), "allowed");
});

test("ten thousand questions at once have their answers in their order", async () => {
  await using evaluator = startEvaluator();
  await load(evaluator, compileMesh([...objects, onlyDb], settings));
  const ports = Array.from({ length: 10_000 }, (_, index) => index + 1);
  const answers = await evaluator.admit(
    ports.map((port) => ({ id: `${port}`, identity: null, address: "192.0.2.1", workload: "Kubernetes//Pod/shop/api", port })),
  );
  assert.deepEqual(
    answers.map(({ id }) => id),
    ports.map(String),
  );
});

test("an evaluator that cannot read a question says which line, to everybody who waits", async () => {
  await using evaluator = startEvaluator();
  await assert.rejects(evaluator.change({ upsert: [], remove: [] }), /E_USAGE: line 1: settings come first/);
  await assert.rejects(evaluator.admit([{ id: "", identity: null, address: null, workload: "", port: 1 }]), /line 1/);
});

test("people name a pod, what made it, an identity or an address, and what is none of these is refused", () => {
  const known = workloadsOf(compileMesh(objects, settings));
  const pick = (text: string, namespace?: string) => pickWorkload(parseSource(text, namespace, "cluster.local"), known)?.uid ?? null;
  const uid = "Kubernetes//Pod/shop/web";
  for (const text of [
    "pod/web",
    "pod/shop/web",
    "deployment/web",
    "shop/web",
    "spiffe://cluster.local/ns/shop/sa/web",
    web.podIPs[0] ?? "",
  ])
    assert.equal(pick(text), uid, text);
  assert.equal(pick("pod/web", "other"), null);
  assert.equal(pick("192.0.2.77"), null);
  for (const text of ["web", "pod/", "pod/a/b/c", "Pod/web", "shop/sa/web"])
    assert.throws(() => parseSource(text, undefined, "cluster.local"), /expected pod\/NAME/, text);
  for (const text of ["web", "web:0", "web:http", ":80", "fd00::1:80", "pod/:80"])
    assert.throws(() => parseDestination(text, undefined), { message: /expected|neither|brackets/ }, text);
  assert.deepEqual(parseDestination("[fd00::1]:80", undefined), { host: "fd00::1", port: 80 });
});
