// Claims about AuthorizationPolicy: every value is enforced, or what the policy selects is denied and the value named.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import { ANYBODY, ANYTHING, held, pod, policy, put, remove } from "./specimen.ts";

test("policy values become exact, prefix, suffix, presence, blocks, ports and accounts; clauses are from, to and each condition", () => {
  const mesh = held();
  mesh.apply(
    put(
      policy("shop", "p", {
        action: "DENY",
        selector: { app: "web" },
        rules: [
          {
            from: [
              { ...ANYBODY, principals: ["cluster.local/ns/a/sa/b", "cluster.local/*", "*/sa/x", "*"], notNamespaces: ["a.b"] },
              { ...ANYBODY, serviceAccounts: ["x", "other/y"], ipBlocks: ["10.1.2.3/8", "fd00::1"] },
            ],
            to: [{ ...ANYTHING, ports: ["80"], notPorts: ["81"] }],
            when: [
              { key: "destination.ip", values: ["1.2.3.4"], notValues: [] },
              { key: "source.namespace", values: [], notValues: ["z"] },
            ],
          },
        ],
      }),
    ),
  );
  const compiled = mesh.policy("shop/p");
  const matches = compiled?.rules[0]?.clauses.map(({ matches }) => matches) ?? [];
  assert.deepEqual(
    matches.map((clause) => clause.length),
    [2, 1, 1, 1],
  );
  assert.deepEqual(
    matches[0]?.[0]?.principals.map(({ matchType }) => [matchType.case, typeof matchType.value === "string" ? matchType.value : ""]),
    [
      ["exact", "cluster.local/ns/a/sa/b"],
      ["prefix", "cluster.local/"],
      ["suffix", "/sa/x"],
      ["presence", ""],
    ],
  );
  assert.deepEqual(
    matches[0]?.[1]?.serviceAccounts.map(({ namespace, serviceAccount }) => `${namespace}/${serviceAccount}`),
    ["shop/x", "other/y"],
  );
  assert.deepEqual(
    matches[0]?.[1]?.sourceIps.map(({ address, length }) => [[...address.slice(0, 4)], length]),
    [
      [[10, 0, 0, 0], 8],
      [[0xfd, 0, 0, 0], 128],
    ],
  );
  assert.deepEqual([matches[1]?.[0]?.destinationPorts, matches[1]?.[0]?.notDestinationPorts], [[80], [81]]);
  assert.equal(compiled?.scope, 2);
  assert.deepEqual(mesh.compiler.faults(), []);
});

test("scope follows selector and namespace, and only pods that a selector picks name its policy", () => {
  const mesh = held();
  mesh.apply(
    put(
      policy("root", "all"),
      policy("shop", "ns"),
      policy("shop", "sel", { selector: { app: "web" } }),
      policy("root", "rootsel", { selector: { app: "web" } }),
      pod("shop", "web", { app: "web" }),
      pod("shop", "db", { app: "db" }),
      pod("other", "web", { app: "web" }),
    ),
  );
  assert.deepEqual(
    ["root/all", "shop/ns", "shop/sel", "root/rootsel"].map((name) => mesh.policy(name)?.scope),
    [0, 1, 2, 2],
  );
  assert.deepEqual(
    [
      ["shop", "web"],
      ["shop", "db"],
      ["other", "web"],
    ].map(([ns = "", name = ""]) => mesh.workload(ns, name)?.authorizationPolicies),
    [["root/rootsel", "shop/sel"], [], ["root/rootsel"]],
  );
});

test("a value that cannot be expressed makes the policy deny all that it selects, and says which value", () => {
  const source = (field: string, value: string) => ({ ...ANYBODY, [field]: [value] });
  const bad: [AuthorizationPolicy["rules"][number], string][] = [
    ...(["principals", "notPrincipals"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "spiffe://a/ns/b/sa/c")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["namespaces", "notNamespaces", "principals"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "a*b")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["serviceAccounts", "notServiceAccounts"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "a/*")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    ...(["ipBlocks", "notIpBlocks"] as const).map((f): [AuthorizationPolicy["rules"][number], string] => [
      { from: [source(f, "10.0.0.0/33")], to: [], when: [] },
      `spec.rules[0].from[0].source.${f}[0]`,
    ]),
    [{ from: [], to: [{ ...ANYTHING, ports: ["65536"], notPorts: [] }], when: [] }, "spec.rules[0].to[0].operation.ports[0]"],
    [{ from: [], to: [{ ...ANYTHING, ports: [], notPorts: ["http"] }], when: [] }, "spec.rules[0].to[0].operation.notPorts[0]"],
    [{ from: [], to: [{ ...ANYTHING, ports: [], notPorts: [] }], when: [] }, "spec.rules[0].to[0].operation"],
    [{ from: [], to: [], when: [{ key: "destination.port", values: ["0"], notValues: [] }] }, "spec.rules[0].when[0].values[0]"],
    [{ from: [], to: [], when: [{ key: "source.ip", values: [], notValues: [] }] }, "spec.rules[0].when[0]"],
    [{ from: [], to: [], when: [{ key: "request.host", values: ["a"], notValues: [] }] }, "spec.rules[0].when[0].key"],
  ];
  for (const [rule, field] of bad) {
    const mesh = held();
    mesh.apply(put(policy("shop", "p", { rules: [{ from: [], to: [], when: [] }, rule].reverse() })));
    const compiled = mesh.policy("shop/p");
    assert.deepEqual([compiled?.action, compiled?.rules.map(({ clauses }) => clauses.length)], [1, [0]], field);
    assert.deepEqual(
      mesh.compiler.faults().map(({ code, key, field }) => [code, key, field]),
      [["E_POLICY_INVALID", "AuthorizationPolicy/shop/p", field]],
    );
    mesh.apply(remove(policy("shop", "p")));
    assert.deepEqual([mesh.policy("shop/p"), mesh.compiler.faults()], [undefined, []]);
  }
});

test("an unenforceable DENY denies its whole target; an ALLOW loses exactly the rules that L4 cannot enforce", () => {
  const mesh = held();
  const rule = (port: string) => ({ from: [], to: [{ ...ANYTHING, ports: [port], notPorts: [] }], when: [] });
  const rules = Array.from({ length: 11 }, (_, i) => rule(String(i + 1)));
  mesh.apply(
    put(
      policy("shop", "deny", { action: "DENY", rules, unenforceable: ["spec.rules[1].to[0].operation.paths"] }),
      policy("shop", "allow", { rules, unenforceable: ["spec.rules[1].to[0].operation.paths"] }),
    ),
  );
  assert.deepEqual(
    mesh.policy("shop/deny")?.rules.map(({ clauses }) => clauses.length),
    [0],
  );
  assert.deepEqual(
    mesh.policy("shop/allow")?.rules.map(({ clauses }) => clauses[0]?.matches[0]?.destinationPorts[0]),
    [1, 3, 4, 5, 6, 7, 8, 9, 10, 11],
  );
  assert.equal(mesh.compiler.faults().length, 2);
});

test("no policy value is dropped: each is in the compiled policy or the policy denies everything and says so", () => {
  const value = fc.oneof(
    fc.constantFrom("*", "a*", "*a", "10.0.0.0/8", "80", "ns/sa", "cluster.local/ns/a/sa/b"),
    fc.string({ minLength: 1, maxLength: 6 }),
  );
  const values = fc.array(value, { maxLength: 3 });
  const source = fc.record({
    principals: values,
    notPrincipals: values,
    namespaces: values,
    notNamespaces: values,
    serviceAccounts: values,
    notServiceAccounts: values,
    ipBlocks: values,
    notIpBlocks: values,
    // What only HTTP knows comes as `unenforceable`, and is not emitted.
    requestPrincipals: fc.constant([]),
    notRequestPrincipals: fc.constant([]),
    remoteIpBlocks: fc.constant([]),
    notRemoteIpBlocks: fc.constant([]),
  });
  const rule = fc.record({
    from: fc.array(source, { maxLength: 2 }),
    to: fc.array(
      fc.record({ ports: values, notPorts: values }).map((one) => ({ ...ANYTHING, ...one })),
      { maxLength: 2 },
    ),
    when: fc.array(
      fc.record({
        key: fc.constantFrom("source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"),
        values,
        notValues: values,
      }),
      { maxLength: 2 },
    ),
  });
  const count = (value: unknown): number =>
    typeof value === "string"
      ? 1
      : Array.isArray(value)
        ? value.reduce((sum: number, one) => sum + count(one), 0)
        : typeof value === "object" && value !== null
          ? Object.values(value).reduce((sum: number, one) => sum + count(one), 0)
          : 0;
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 2 }), fc.constantFrom("ALLOW" as const, "DENY" as const), (rules, action) => {
      const mesh = held();
      mesh.apply(put(policy("shop", "p", { rules, action })));
      const compiled = mesh.policy("shop/p");
      const bad = mesh.compiler.faults().filter(({ field }) => field !== "spec.rules");
      if (bad.length > 0) return assert.deepEqual([compiled?.action, compiled?.rules.map(({ clauses }) => clauses.length)], [1, [0]]);
      const emitted = (compiled?.rules ?? [])
        .flatMap(({ clauses }) => clauses)
        .flatMap(({ matches }) => matches)
        .flatMap((match) => Object.values(match))
        .filter(Array.isArray)
        .reduce((sum, list) => sum + list.length, 0);
      const written = count(rules.map(({ from, to, when }) => [from, to, when.map(({ values, notValues }) => [values, notValues])]));
      assert.equal(emitted, written);
    }),
    { numRuns: 500 },
  );
});
