// Claims about what would not fit into a message.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Action } from "#contract/gen/istio/security_pb.ts";
import { ANYBODY, held, pod, policy, put, remove, service } from "./specimen.ts";

test("what would not fit into a message is closed and named, and nothing else is held up", () => {
  const from = [{ ...ANYBODY, namespaces: Array.from({ length: 200_000 }, (_, i) => `namespace-${i}`) }];
  const large = policy("shop", "large", { selector: { app: "web" }, rules: [{ from, to: [], when: [] }] });
  const many = Array.from({ length: 9_000 }, (_, i) => policy("shop", `${i}`.padStart(250, "p"), { selector: { app: "cart" } }));
  const ports = Array.from(
    { length: 300_000 },
    () => ({ name: "", port: 60000, targetPort: 60000, protocol: "TCP", appProtocol: "" }) as const,
  );
  const mesh = held();
  mesh.apply(
    put(large, ...many, service("shop", "wide", {}, { ports }), pod("shop", "cart", { app: "cart" }), pod("shop", "web", { app: "web" })),
  );
  for (const [name, body] of mesh.resources) assert.ok(body.length <= 2 * 2 ** 20, `${name} has ${body.length} bytes`);
  const closed = mesh.policy("shop/large");
  assert.deepEqual([closed?.action, closed?.rules.length, closed?.rules[0]?.clauses.length], [Action.DENY, 1, 0]);
  assert.deepEqual(mesh.workload("shop", "web")?.authorizationPolicies, ["shop/large"]);
  const cart = mesh.workload("shop", "cart");
  assert.equal(cart?.authorizationPolicies.length, 1);
  assert.equal(mesh.policy(cart?.authorizationPolicies[0] ?? ""), undefined, "a policy that exists might let somebody in");
  assert.deepEqual(mesh.service("shop/wide.shop.svc.cluster.local")?.ports, []);
  assert.deepEqual(
    mesh.compiler
      .faults()
      .map(({ key }) => key)
      .sort(),
    ["AuthorizationPolicy/shop/large", "Pod/shop/cart", "Service/shop/wide"],
  );
  mesh.apply(remove(large, ...many));
  assert.deepEqual([mesh.compiler.faults().length, mesh.workload("shop", "cart")?.authorizationPolicies], [1, []]);
});
