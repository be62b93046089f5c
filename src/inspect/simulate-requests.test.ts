// Claims about replaying requests that waypoints were asked: what records hold decides, and what they do not hold is named.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { settings } from "#compile/specimen.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { parseText } from "#source/directory/documents.ts";
import { projectDocument } from "#source/project/project.ts";
import { startEvaluator } from "./eval/evaluator.ts";
import { compileMesh } from "./eval/mesh.ts";
import { gatherObserved } from "./observed.ts";
import type { ObservedRequest } from "./observed-requests.ts";
import { simulate } from "./simulate.ts";
import type { RequestOutcome, RequestSimulation } from "./simulate-requests.ts";

const STOCK = "shop/stock.shop.svc.cluster.local";
const parse = (text: string): MeshObject[] =>
  parseText(text).documents.flatMap(({ value }) => {
    const { object, problems } = projectDocument(value);
    assert.deepEqual(problems, []);
    return object === null ? [] : [object];
  });
const shop = globSync(`${fileURLToPath(new URL("../../examples/shop", import.meta.url))}/*.yaml`).flatMap((file) =>
  parse(readFileSync(file, "utf8")),
);
const onStock = (kind: string, name: string, spec: object, annotations: object = {}): MeshObject[] =>
  parse(
    JSON.stringify({
      apiVersion: "security.istio.io/v1",
      kind,
      metadata: { name, namespace: "shop", annotations },
      spec: { targetRefs: [{ group: "", kind: "Service", name: "stock" }], ...spec },
    }),
  );
const rule = (operation: object, when: readonly object[] = []) => ({ to: [{ operation }], ...(when.length === 0 ? {} : { when }) });

const seen = (more: Partial<ObservedRequest> = {}): ObservedRequest => ({
  source: { identity: "spiffe://cluster.local/ns/shop/sa/shopper", namespace: "shop", workload: "shopper", addresses: [] },
  service: STOCK,
  port: 80,
  method: "GET",
  authority: "stock.shop",
  path: "/items/7",
  verdict: "allowed",
  policy: null,
  code: null,
  requests: 9,
  first: "2026-01-01T00:00:00.000Z",
  last: "2026-01-01T00:01:00.000Z",
  ...more,
});

async function replay(
  before: readonly MeshObject[],
  after: readonly MeshObject[],
  ...requests: ObservedRequest[]
): Promise<RequestSimulation> {
  await using evaluator = startEvaluator();
  const observations = { edges: [], requests, routes: [], unnamed: 0, unread: 0, unreadExample: null, missing: [] };
  const mesh = (objects: readonly MeshObject[]) => compileMesh([...shop, ...objects], settings);
  return (await simulate(evaluator, mesh(before), mesh(after), observations)).requests;
}
const paths = (outcomes: readonly RequestOutcome[]): (string | null)[] => outcomes.map(({ request }) => request.path);
const READ = onStock("AuthorizationPolicy", "read", { rules: [rule({ methods: ["GET"], paths: ["/items/*"] })] });

test("requests that a change would deny are told by method and path, the most first, and others are not", async () => {
  const { newlyDenied, newlyAllowed, undecided } = await replay(
    [],
    READ,
    seen(),
    seen({ path: "/admin", requests: 3 }),
    seen({ method: "DELETE", requests: 4 }),
    seen({ path: "/%69tems/7/../8" }),
  );
  assert.deepEqual([paths(newlyDenied), newlyAllowed, undecided], [["/items/7", "/admin"], [], []]);
  assert.deepEqual([newlyDenied[0]?.request.method, newlyDenied[0]?.after.code], ["DELETE", "E_POLICY_NO_ALLOW"]);
});

test("what was denied and would be allowed is told, with the policy that would allow it", async () => {
  const both = [...READ, ...onStock("AuthorizationPolicy", "admin", { rules: [rule({ paths: ["/admin"] })] })];
  const { newlyAllowed, newlyDenied } = await replay(READ, both, seen({ path: "/admin", verdict: "denied", code: "E_POLICY_NO_ALLOW" }));
  assert.deepEqual([paths(newlyAllowed), newlyDenied, newlyAllowed[0]?.after.policy?.name], [["/admin"], [], "shop/admin"]);
});

test("fields that no record holds are named, unless the rest decides without them", async () => {
  const word = onStock("AuthorizationPolicy", "word", {
    action: "DENY",
    rules: [rule({ paths: ["/items/*"] }, [{ key: "request.headers[x-word]", notValues: ["please"] }])],
  });
  const { undecided, newlyDenied } = await replay([], word, seen(), seen({ path: "/other" }), seen({ path: null }));
  assert.deepEqual(
    undecided.map(({ request, depends }) => [request.path, depends]),
    [
      ["/items/7", ["headers[x-word]"]],
      [null, ["headers[x-word]", "paths"]],
    ],
  );
  assert.deepEqual(newlyDenied, []);
  const closed = [...word, ...onStock("AuthorizationPolicy", "nobody", { rules: [] })];
  assert.deepEqual(paths((await replay(word, closed, seen())).newlyDenied), ["/items/7"], "it was allowed, whatever its header was");
});

test("policies of a service that a route leads to are named, for whether it is taken may hang on what is not recorded", async () => {
  const v1 = { targetRefs: [{ group: "", kind: "Service", name: "stock-v1" }] };
  const waypoint = shop.map((object) =>
    object.kind === "Service" && object.metadata.name === "stock-v1"
      ? { ...object, metadata: { ...object.metadata, labels: { ...object.metadata.labels, "trackbed.dev/use-waypoint": "waypoint" } } }
      : object,
  );
  await using evaluator = startEvaluator();
  const mesh = (objects: readonly MeshObject[]) => compileMesh([...waypoint, ...objects], settings);
  const observations = { edges: [], requests: [seen()], routes: [], unnamed: 0, unread: 0, unreadExample: null, missing: [] };
  const { requests } = await simulate(evaluator, mesh([]), mesh(onStock("AuthorizationPolicy", "v1", { ...v1, rules: [] })), observations);
  assert.deepEqual(
    [requests.newlyDenied, requests.undecided.map(({ depends }) => depends)],
    [[], [["policies of shop/stock-v1.shop.svc.cluster.local"]]],
  );
});

test("a service whose policies stay as they are is not asked about, also where they cannot be decided", async () => {
  const word = onStock("AuthorizationPolicy", "word", { rules: [{ when: [{ key: "request.headers[x-word]", values: ["please"] }] }] });
  const other = parse(
    JSON.stringify({
      apiVersion: "security.istio.io/v1",
      kind: "AuthorizationPolicy",
      metadata: { name: "web", namespace: "shop" },
      spec: { selector: { matchLabels: { app: "web" } }, rules: [] },
    }),
  );
  const { undecided, newlyDenied, kinds } = await replay(word, [...word, ...other], seen());
  assert.deepEqual([undecided, newlyDenied, kinds], [[], [], 1]);
});

test("new token rules may refuse what was let in, and those that stay have let it in", async () => {
  const jwks = JSON.stringify({ keys: [] });
  const id = (issuer: string) => onStock("RequestAuthentication", "id", { jwtRules: [{ issuer, jwks }] });
  const tokens = await replay([], id("https://one.example"), seen());
  assert.deepEqual(
    tokens.undecided.map(({ depends }) => depends),
    [["token"]],
  );
  const kept = await replay(id("https://one.example"), [...id("https://one.example"), ...READ], seen(), seen({ path: "/admin" }));
  assert.deepEqual([kept.undecided, paths(kept.newlyDenied)], [[], ["/admin"]]);
});

test("a dry run denies nothing, and what it would deny is told", async () => {
  const dry = onStock("AuthorizationPolicy", "dry", { rules: [rule({ paths: ["/items/*"] })] }, { "istio.io/dry-run": "true" });
  const { newlyDenied, wouldDeny } = await replay([], dry, seen(), seen({ path: "/admin" }));
  assert.deepEqual([newlyDenied, paths(wouldDeny), wouldDeny[0]?.after.audit?.policy.name], [[], ["/admin"], "shop/dry"]);
});

test("who may ask of a service that has no waypoint any more is no question of policies of requests", async () => {
  const { gone, newlyDenied } = await replay([], READ, seen({ service: "shop/was.shop.svc.cluster.local" }));
  assert.deepEqual([gone.length, newlyDenied], [1, []]);
});

const line = (about: object): string => JSON.stringify(about);
const source = { workload: "shopper", namespace: "shop", identity: "spiffe://cluster.local/ns/shop/sa/shopper" };
const request = { method: "GET", authority: "stock.shop", path: "/a", port: 80, route: "HTTPRoute/shop/stock/0" };

test("a waypoint's edges and records are gathered by what policies look at, each request once", () => {
  const gatherer = gatherObserved();
  const edge = {
    reporter: "waypoint",
    path: "tunnel",
    verdict: "allowed",
    source,
    destination: source,
    service: STOCK,
    port: 8080,
    request,
  };
  const counted = { type: "edge", time: "2026-01-01T00:00:00.000Z", seconds: 60, count: 5 };
  gatherer.line(line({ ...counted, edge }));
  gatherer.line(line({ ...counted, edge: { ...edge, request: { ...request, method: "OTHER", authority: null, path: null } } }));
  gatherer.line(line({ ...counted, edge: { ...edge, request: null, other: true } }));
  const flow = {
    id: "1",
    phase: "closed",
    direction: "inbound",
    verdict: "allowed",
    start: "2026-01-01T00:02:00.000Z",
    source: { address: "10.0.0.1", port: 40000, ...source },
    destination: { address: "10.0.0.2", port: 8080, ...source },
    service: STOCK,
    podUid: "p",
    request,
  };
  gatherer.line(line({ type: "flow", flow }));
  gatherer.line(line({ type: "flow", flow: { ...flow, request: { ...request, path: "/b" } } }));
  const { requests, unnamed, routes, edges } = gatherer.done();
  assert.deepEqual(
    requests.map(({ method, path, requests, source, last }) => [method, path, requests, source.addresses, last.slice(11, 19)]),
    [
      ["GET", "/a", 5, ["10.0.0.1"], "00:02:00"],
      [null, null, 5, [], "00:01:00"],
      ["GET", "/b", 1, ["10.0.0.1"], "00:02:00"],
    ],
  );
  assert.deepEqual([unnamed, routes, edges], [5, ["HTTPRoute/shop/stock/0"], []]);
});
