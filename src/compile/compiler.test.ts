// Claims about incremental compilation: order, cost, and the same result as from scratch.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Compiler, createCompiler, type NodeUpdate } from "#compile/compiler.ts";
import { keyOf, type Labels, type MeshObject } from "#mesh/objects.ts";
import { ENABLED, entry, held, meta, namespace, peer, pod, policy, put, remove, service, settings, slice } from "./specimen.ts";

test("policies arrive before the workloads that name them and go after them", () => {
  const compiler = createCompiler(settings);
  const strict = policy("shop", "p", { selector: { app: "web" } });
  const types = (change: Parameters<Compiler["apply"]>[0]) =>
    compiler.apply(change).deltas.map(({ typeUrl, upsert, remove }) => [typeUrl.split(".").at(-1), upsert.length, remove.length]);
  assert.deepEqual(types(put(strict, pod("shop", "web", { app: "web" }))), [
    ["Authorization", 2, 0],
    ["Address", 1, 0],
  ]);
  assert.deepEqual(types(remove(strict)), [
    ["Address", 1, 0],
    ["Authorization", 0, 1],
  ]);
});

test("one pod's change costs one resource among 2000 pods, 200 services and 200 policies", () => {
  const mesh = held();
  const all: MeshObject[] = [];
  for (let i = 0; i < 200; i++)
    all.push(service("shop", `s${i}`, { app: `a${i}` }), policy("shop", `p${i}`, { selector: { app: `a${i}` } }));
  for (let i = 0; i < 2000; i++) all.push(pod("shop", `pod${i}`, { app: `a${i % 200}` }));
  assert.equal(mesh.apply({ reset: true, put: all, remove: [] }), all.length);
  assert.equal(mesh.apply(put(pod("shop", "pod7", { app: "a7" }, { ready: false }))), 1);
  assert.equal(mesh.apply(put(service("shop", "s7", { app: "a7" }, { ports: [] }))), 11);
  assert.equal(mesh.apply(put(policy("shop", "p7", { selector: { app: "a8" } }))), 21);
  assert.equal(mesh.apply(put(policy("shop", "wide"))), 1);
});

test("any sequence of changes gives what a compiler that starts with the result gives", () => {
  const labels = fc.dictionary(fc.constantFrom("app", "tier"), fc.constantFrom("a", "b"), { noNullPrototype: true });
  const place = fc.constantFrom("root", "shop", "other");
  const name = fc.constantFrom("x", "y");
  const mode = fc.constantFrom("UNSET" as const, "STRICT" as const, "PERMISSIVE" as const, "DISABLE" as const);
  const mesh = fc.constantFrom<Labels>({}, ENABLED, { "trackbed.dev/mesh": "disabled" });
  const object: fc.Arbitrary<MeshObject> = fc.oneof(
    fc
      .tuple(place, name, labels, mesh, fc.boolean(), fc.constantFrom("n1", "n2"), fc.constantFrom("Running" as const, "Failed" as const))
      .map(([ns, n, l, m, ready, nodeName, phase]) => pod(ns, n, { ...l, ...m }, { ready, nodeName, phase })),
    fc
      .tuple(place, name, labels, fc.constantFrom("ClusterIP" as const, "ExternalName" as const))
      .map(([ns, n, l, type]) => service(ns, n, l, { type })),
    fc
      .tuple(place, name, name, place, name, fc.boolean())
      // Addresses of pods that may be there, and one that is nobody's.
      .map(([ns, n, of, podNs, podName, ready]) => slice(ns, n, of, [...pod(podNs, podName).podIPs, "192.0.2.1"], ready)),
    fc
      .tuple(place, name, labels, fc.constantFrom([], ["spec.rules[0].to"]))
      .map(([ns, n, selector, unenforceable]) => policy(ns, n, { selector, unenforceable, action: "DENY" })),
    fc
      .tuple(place, name, labels, mode, mode, fc.constantFrom("", "2026-01-01T00:00:00Z"))
      .map(([ns, n, selector, m, p, t]) => peer(ns, n, m, { selector, portModes: { 80: p }, metadata: meta(ns, n, {}, t) })),
    fc
      .tuple(
        place,
        name,
        fc.subarray(["x.example.com", "y.example.com", "web.shop.svc.cluster.local"], { minLength: 1 }),
        labels,
        place,
        name,
      )
      .map(([ns, n, hosts, selector, podNs, podName]) => {
        const endpoints = pod(podNs, podName).podIPs.map((address) => ({ address, ports: {}, locality: "", weight: 1 }));
        return entry(ns, n, { hosts, selector, endpoints: Object.keys(selector).length === 0 ? endpoints : [] });
      }),
    fc.tuple(place, mesh).map(([n, l]) => namespace(n, l)),
    fc.tuple(fc.constantFrom("n1", "n2"), fc.constantFrom("z1", "z2")).map(
      ([n, z]): MeshObject => ({
        kind: "Node",
        metadata: meta("", n, { "topology.kubernetes.io/zone": z }),
        addresses: [],
        podCIDRs: [],
      }),
    ),
  );
  const report = fc.record({
    node: fc.constantFrom("n1", "n2"),
    snapshot: fc.boolean(),
    pods: fc.array(fc.record({ uid: fc.constantFrom("root-x", "shop-x", "shop-y", "other-x"), captured: fc.option(fc.boolean()) }), {
      maxLength: 3,
    }),
  });
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .array(object, { minLength: 1, maxLength: 3 })
        .map((objects) => ({ put: objects, drop: [] as number[], reset: false, nodes: [] as NodeUpdate[] })),
    },
    {
      weight: 2,
      arbitrary: fc.array(fc.nat(50), { maxLength: 3 }).map((drop) => ({ put: [], drop, reset: false, nodes: [] as NodeUpdate[] })),
    },
    { weight: 2, arbitrary: fc.array(report, { minLength: 1, maxLength: 2 }).map((nodes) => ({ put: [], drop: [], reset: false, nodes })) },
    {
      weight: 1,
      arbitrary: fc.array(object, { maxLength: 4 }).map((objects) => ({ put: objects, drop: [], reset: true, nodes: [] as NodeUpdate[] })),
    },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const incremental = held();
      const reports: NodeUpdate[] = [];
      incremental.apply(null);
      for (const { put, drop, reset, nodes } of steps) {
        const present = [...incremental.compiler.objects()];
        const remove = drop.flatMap((i) => present[i] ?? []).map(keyOf);
        incremental.apply({ reset, put: [...new Map(put.map((one) => [keyOf(one), one])).values()], remove }, nodes);
        reports.push(...nodes);
      }
      // Of whom nobody says anything, what was seen before counts, and that one of the two has seen nothing: last words about everybody.
      for (const node of ["n1", "n2"]) {
        const spoken = new Map(
          reports.filter((one) => one.node === node).flatMap(({ pods }) => pods.map(({ uid, captured }) => [uid, captured])),
        );
        const uids = ["root", "shop", "other"].flatMap((space) => ["x", "y"].map((name) => `${space}-${name}`));
        const words = { node, snapshot: true, pods: uids.map((uid) => ({ uid, captured: spoken.get(uid) ?? false })) };
        incremental.apply(null, [words]);
        reports.push(words);
      }
      const scratch = held();
      for (const update of reports) scratch.apply(null, [update]);
      scratch.apply({ reset: true, put: [...incremental.compiler.objects()], remove: [] });
      const sorted = (map: Map<string, Uint8Array>) => [...map].map(([name, body]) => [name, Buffer.from(body).toString("hex")]).sort();
      assert.deepEqual(sorted(incremental.resources), sorted(scratch.resources));
      const faults = (compiler: Compiler) =>
        compiler
          .faults()
          .map((fault) => JSON.stringify(fault))
          .sort();
      assert.deepEqual(faults(incremental.compiler), faults(scratch.compiler));
    }),
    { numRuns: 300 },
  );
});
