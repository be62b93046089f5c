// Claims about PeerAuthentication: which mode holds where.
import assert from "node:assert/strict";
import { test } from "node:test";
import { held, meta, peer, pod, put, remove } from "./specimen.ts";

test("PeerAuthentication: workload beats namespace beats mesh, the oldest wins, UNSET inherits, ports differ", () => {
  const mesh = held();
  const web = { app: "web" };
  const names = () => mesh.workload("shop", "web")?.authorizationPolicies;
  const STATIC = "root/istio_converted_static_strict";
  mesh.apply(put(pod("shop", "web", web)));
  assert.deepEqual(mesh.policy(STATIC)?.rules[0]?.clauses[0]?.matches[0]?.notPrincipals[0]?.matchType.case, "presence");
  mesh.apply(put(peer("root", "mesh", "STRICT")));
  assert.deepEqual(names(), [STATIC]);
  mesh.apply(
    put(
      peer("shop", "young", "STRICT", { metadata: meta("shop", "young", {}, "2026-02-01T00:00:00Z") }),
      peer("shop", "old", "PERMISSIVE", { metadata: meta("shop", "old", {}, "2026-01-01T00:00:00Z") }),
    ),
  );
  assert.deepEqual(names(), []);
  mesh.apply(put(peer("shop", "web", "UNSET", { selector: web, portModes: { 80: "STRICT", 81: "UNSET" } })));
  assert.deepEqual(names(), ["shop/converted_peer_authentication_web"]);
  assert.deepEqual(mesh.policy("shop/converted_peer_authentication_web")?.rules[0]?.clauses[0]?.matches[0]?.destinationPorts, [80]);
  mesh.apply(remove(peer("shop", "old", "PERMISSIVE")));
  assert.deepEqual([names(), mesh.policy("shop/converted_peer_authentication_web")], [[STATIC], undefined]);
  mesh.apply(put(peer("shop", "web", "STRICT", { selector: web, portModes: { 90: "DISABLE" } })));
  assert.deepEqual(mesh.policy("shop/converted_peer_authentication_web")?.rules[0]?.clauses[0]?.matches[0]?.notDestinationPorts, [90]);
  mesh.apply(put(peer("shop", "web", "DISABLE", { selector: web })));
  assert.deepEqual(names(), []);
  mesh.apply(put(peer("root", "sel", "PERMISSIVE", { selector: web }), pod("root", "web", web)));
  assert.deepEqual(mesh.workload("root", "web")?.authorizationPolicies, [STATIC]);
  assert.deepEqual(
    mesh.compiler.faults().map(({ key, field }) => [key, field]),
    [["PeerAuthentication/root/sel", "spec.selector"]],
  );
});
