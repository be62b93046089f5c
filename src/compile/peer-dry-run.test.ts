// Claims about PeerAuthentications that are only tried: nobody is refused by them, and who would be is told, as precedence would have it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startEvaluator } from "#inspect/eval/evaluator.ts";
import { compileMesh, load, workloadsOf } from "#inspect/eval/mesh.ts";
import type { MeshObject, PeerAuthentication } from "#mesh/objects.ts";
import { ENABLED, held, meta, namespace, peer, pod, put, remove, settings } from "./specimen.ts";

const web = { app: "web" };
const objects: MeshObject[] = [namespace("shop", ENABLED), pod("shop", "web", web, { ready: true, phase: "Running" })];
const dry = (one: PeerAuthentication): PeerAuthentication => ({ ...one, dryRun: true });

/** Of a plaintext client at each port: the verdict, and who would refuse it. */
async function said(...peers: PeerAuthentication[]): Promise<(readonly [string, string | null])[]> {
  await using evaluator = startEvaluator();
  const mesh = compileMesh([...objects, ...peers], settings);
  assert.deepEqual(await load(evaluator, mesh), []);
  const [workload] = workloadsOf(mesh);
  assert.ok(workload !== undefined);
  const ask = (port: number, identity: string | null) => ({ id: "", identity, address: "192.0.2.1", workload: workload.uid, port });
  const [proven] = await evaluator.admit([ask(80, workload.identity)]);
  assert.deepEqual([proven?.verdict, proven?.audit], ["allowed", null], "mutual TLS is what is asked for");
  const answers = await evaluator.admit([80, 81].map((port) => ask(port, null)));
  return answers.map(({ verdict, audit }) => [verdict, audit === null ? null : `${audit.code} ${audit.policy.name}`]);
}

const would = (name: string, ns = "shop"): readonly ["allowed", string] => [
  "allowed",
  `E_POLICY_STRICT ${ns}/converted_peer_authentication_${name}`,
];
const free = ["allowed", null] as const;
const refused = ["denied", null] as const;

test("STRICT that is only tried refuses nobody, and tells whom it would, for a mesh, a namespace and a workload", async () => {
  assert.deepEqual(await said(dry(peer("root", "all", "STRICT"))), [would("all", "root"), would("all", "root")]);
  assert.deepEqual(await said(dry(peer("shop", "all", "STRICT"))), [would("all"), would("all")]);
  assert.deepEqual(await said(dry(peer("shop", "web", "STRICT", { selector: web }))), [would("web"), would("web")]);
  assert.deepEqual(await said(dry(peer("shop", "web", "PERMISSIVE", { selector: web }))), [free, free]);
});

test("ports are tried as they are written", async () => {
  const one = peer("shop", "web", "PERMISSIVE", { selector: web, portModes: { 81: "STRICT" } });
  assert.deepEqual(await said(dry(one)), [free, would("web")]);
  assert.deepEqual(await said(dry({ ...one, mode: "STRICT", portModes: { 81: "PERMISSIVE" } })), [would("web"), free]);
});

test("what is enforced stays so beside what is tried, and what precedence keeps from governing tells nothing", async () => {
  assert.deepEqual(await said(peer("root", "mesh", "STRICT"), dry(peer("shop", "all", "PERMISSIVE"))), [refused, refused]);
  assert.deepEqual(await said(peer("shop", "web", "PERMISSIVE", { selector: web }), dry(peer("shop", "all", "STRICT"))), [free, free]);
  const older = { metadata: meta("shop", "old", {}, "2026-01-01T00:00:00Z") };
  assert.deepEqual(await said(peer("shop", "old", "PERMISSIVE", older), dry(peer("shop", "young", "STRICT"))), [free, free]);
});

test("a dry run that ends is enforced, and one that is taken away leaves nothing", () => {
  const mesh = held();
  const names = () => mesh.workload("shop", "web")?.authorizationPolicies;
  const one = peer("shop", "all", "STRICT");
  mesh.apply(put(...objects, dry(one)));
  assert.deepEqual(names(), ["shop/converted_peer_authentication_all"]);
  assert.equal(mesh.policy("shop/converted_peer_authentication_all")?.dryRun, true);
  mesh.apply(put(one));
  assert.deepEqual([names(), mesh.policy("shop/converted_peer_authentication_all")], [["root/istio_converted_static_strict"], undefined]);
  mesh.apply(put(dry(one)));
  mesh.apply(remove(one));
  assert.deepEqual([names(), mesh.policy("shop/converted_peer_authentication_all")], [[], undefined]);
});
