// Claims about which pods of a source's objects this node should have in the mesh.
import assert from "node:assert/strict";
import { test } from "node:test";
import { annotations } from "#contract/tables.ts";
import type { Namespace, Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import type { Change } from "#source/source.ts";
import { desiredPods } from "./desired.ts";

const shop = (enabled: boolean): Namespace => ({
  kind: "Namespace",
  metadata: meta("", "shop", { labels: enabled ? { "trackbed.dev/mesh": "enabled" } : {} }),
});
const pod = (name: string, more: Partial<Pod> = {}): Pod =>
  podOf(meta("shop", name, { annotations: { "trackbed.dev/netns": `/netns/${name}` } }), {
    nodeName: "a",
    podIPs: ["10.0.0.1", "fd00::1"],
    ...more,
  });
const change = (more: Partial<Change>): Change => ({ reset: false, put: [], remove: [], faults: [], places: new Map(), ...more });

test("pods of other nodes are none of this daemon's business", () => {
  const { update } = desiredPods("a", () => "cluster.local");
  const specs = update(change({ reset: true, put: [shop(true), pod("mine"), pod("other", { nodeName: "b" })] }));
  assert.deepEqual([...specs.keys()], ["uid-mine"]);
});

test("a namespace's label decides for its pods, whichever comes first", () => {
  const { update } = desiredPods("a", () => "cluster.local");
  assert.equal(update(change({ reset: true, put: [pod("web")] })).get("uid-web")?.desired, "absent");
  assert.equal(update(change({ put: [shop(true)] })).get("uid-web")?.desired, "enrolled");
  assert.equal(update(change({ put: [shop(false)] })).get("uid-web")?.desired, "absent");
  assert.equal(update(change({ remove: ["Pod/shop/web"] })).size, 0);
});

test("a pod that is over is not kept alive", () => {
  const specs = desiredPods("a", () => "cluster.local").update(
    change({ reset: true, put: [shop(true), pod("job", { phase: "Succeeded" })] }),
  );
  assert.equal(specs.get("uid-job")?.desired, "deleted");
});

test("a hostNetwork pod has no namespace to enter and says why it is not enrolled", () => {
  const spec = desiredPods("a", () => "cluster.local")
    .update(change({ reset: true, put: [shop(true), pod("host", { hostNetwork: true })] }))
    .get("uid-host");
  assert.deepEqual([spec?.desired, spec?.netns, spec?.refused?.code], ["absent", null, "E_CAPTURE_HOST_NETWORK"]);
});

test("a reset forgets what it does not name", () => {
  const { update } = desiredPods("a", () => "cluster.local");
  update(change({ reset: true, put: [shop(true), pod("old")] }));
  assert.deepEqual([...update(change({ reset: true, put: [shop(true), pod("new")] })).keys()], ["uid-new"]);
});

test("documents are incomplete while one that may be a pod cannot be read", () => {
  const desired = desiredPods("a", () => "cluster.local");
  const fault = { code: "E_SOURCE_INVALID", file: "x.yaml", line: 1, field: "", reason: "" } as const;
  for (const [key, incomplete] of [
    [null, true],
    ["Pod/shop/web", true],
    ["Service/shop/web", false],
  ] as const) {
    desired.update(change({ faults: [{ ...fault, key }] }));
    assert.equal(desired.incomplete, incomplete, String(key));
    if (incomplete) assert.match(desired.unread ?? "", /^x\.yaml:1 cannot be read/);
    else assert.equal(desired.unread, null);
  }
});

test("short names are looked up below the domain that is in force now", () => {
  let domain = "cluster.local";
  const desired = desiredPods("a", () => domain);
  const put = [pod("one", { dnsSearch: ["corp.example"] }), pod("two", { clusterSearch: false, dnsSearch: ["corp.example"] })];
  const searches = (specs: ReadonlyMap<string, { dnsSearch: readonly string[] }>) => [...specs.values()].map(({ dnsSearch }) => dnsSearch);
  assert.deepEqual(searches(desired.update(change({ reset: true, put }))), [
    ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"],
    ["corp.example"],
  ]);
  domain = "mesh.example";
  assert.deepEqual(searches(desired.again())[0], ["shop.svc.mesh.example", "svc.mesh.example", "mesh.example", "corp.example"]);
});

test("a namespace path that depends on where the daemon was started is not followed", () => {
  const { metadata } = pod("one");
  const lost = { ...pod("one"), metadata: { ...metadata, annotations: { [annotations.netns]: "run/netns/one" } } };
  const spec = [
    ...desiredPods("a", () => "cluster.local")
      .update(change({ reset: true, put: [lost] }))
      .values(),
  ][0];
  assert.equal(spec?.netns, null);
  assert.deepEqual(
    spec?.annotationFaults.map(({ annotation }) => annotation),
    [annotations.netns],
  );
});

test("of two enrolled pods with one namespace the older is captured; the other stays enrolled, without it, and both are named", () => {
  const old = { ...pod("web"), metadata: { ...pod("web").metadata, creationTimestamp: "2026-01-01T00:00:00Z" } };
  const twin = { ...pod("api"), metadata: { ...pod("api").metadata, annotations: { [annotations.netns]: "/netns//web" } } };
  const desired = desiredPods("a", () => "cluster.local");
  const places = new Map([["Pod/shop/api", { file: "api.yaml", line: 7 }] as const]);
  const specs = desired.update(change({ reset: true, put: [shop(true), twin, old], places }));
  assert.deepEqual(
    [...specs.values()].map(({ name, desired, netns }) => [name, desired, netns]),
    [
      ["web", "enrolled", "/netns/web"],
      ["api", "enrolled", null],
    ],
  );
  assert.match(specs.get("uid-api")?.annotationFaults[0]?.reason ?? "", /namespace of pod shop\/web/);
  const [fault] = desired.faults;
  assert.deepEqual([fault?.file, fault?.line, fault?.field], ["api.yaml", 7, `metadata.annotations.${annotations.netns}`]);
  assert.match(fault?.reason ?? "", /pod shop\/api is that of pod shop\/web/);
  assert.equal(desired.incomplete, false, "both documents can be read");
  const freed = desired.update(change({ remove: ["Pod/shop/web"] }));
  assert.deepEqual([freed.get("uid-api")?.netns, desired.faults], ["/netns//web", []]);
});

test("of two enrolled pods with one address the younger is closed, the older is as ever", () => {
  const born = (name: string, creationTimestamp: string, podIPs: readonly string[]) => {
    const one = pod(name, { podIPs });
    return { ...one, metadata: { ...one.metadata, creationTimestamp } };
  };
  const young = born("young", "2026-02-01T00:00:00Z", ["fd00::0:1"]);
  const old = born("old", "2026-01-01T00:00:00Z", ["10.0.0.2", "FD00::1"]);
  const specs = desiredPods("a", () => "cluster.local").update(change({ reset: true, put: [shop(true), young, old] }));
  assert.deepEqual([specs.get("uid-young")?.closed, specs.get("uid-old")?.closed], [true, false]);
});
