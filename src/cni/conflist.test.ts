// Claims about the configuration that we put before the node's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { chained } from "./conflist.ts";

const bridge = { type: "bridge", bridge: "cni0", ipam: { type: "host-local" } };
const portmap = { type: "portmap", capabilities: { portMappings: true } };
const list = { cniVersion: "1.0.0", name: "cluster", disableCheck: true, plugins: [bridge, portmap] };
const file = (name: string, value: unknown) => ({ name, text: typeof value === "string" ? value : JSON.stringify(value) });
const made = (...files: ReturnType<typeof file>[]): unknown => JSON.parse((chained(files) as { text: string }).text);

test("our plugin comes last in a copy that is otherwise the node's own, field by field", () => {
  assert.deepEqual(made(file("10-cluster.conflist", list)), { ...list, plugins: [bridge, portmap, { type: "trackbed-cni" }] });
});

test("what the runtime would take without us is what is copied: the first by name that it reads", () => {
  const files = [
    file("20-other.conflist", { ...list, name: "other" }),
    file("10-cluster.conflist", list),
    file("05-notes.txt", "{"),
    file("00-trackbed.conflist", { ...list, name: "ours from before" }),
  ];
  assert.equal(chained(files).from, "10-cluster.conflist");
});

test("a configuration of one plugin becomes a list", () => {
  assert.deepEqual(made(file("10-flannel.conf", { cniVersion: "0.4.0", name: "flannel", ...bridge })), {
    cniVersion: "0.4.0",
    name: "flannel",
    plugins: [bridge, { type: "trackbed-cni" }],
  });
});

test("a copy of a copy does not call us twice", () => {
  const twice = made(file("10-copy.conflist", { ...list, plugins: [bridge, { type: "trackbed-cni", socket: "/old" }] })) as typeof list;
  assert.deepEqual(
    twice.plugins.map(({ type }) => type),
    ["bridge", "trackbed-cni"],
  );
});

test("what cannot be read is passed over as a runtime does, and named when nothing is left", () => {
  assert.equal(chained([file("10-a.conflist", "{"), file("20-b.conflist", list)]).from, "20-b.conflist");
  const nothing = chained([file("10-a.conflist", "{"), file("20-b.conflist", { plugins: [] }), file("30-c.conf", { name: "x" })]);
  assert.equal(nothing.from, null);
  assert.match(
    (nothing as { readonly reasons: readonly string[] }).reasons.join("; "),
    /10-a.conflist: it is not JSON.*; 20-b.conflist: it has no plugins; 30-c.conf: it names no plugin type/,
  );
});

test("where daemon and decisions are is written into our entry", () => {
  const text = (chained([file("10-cluster.conflist", list)], { socket: "/run/x/cni.sock" }) as { text: string }).text;
  assert.deepEqual((JSON.parse(text) as typeof list).plugins.at(-1), { type: "trackbed-cni", socket: "/run/x/cni.sock" });
});

test("a configuration of a version in which nobody is chained is left alone, and so is one that nobody knows yet", () => {
  const said = (version: unknown, more: object = {}): string => {
    const chain = chained([
      file("10-old.conf", { ...(version === undefined ? {} : { cniVersion: version }), name: "old", ...bridge, ...more }),
      file("20-new.conflist", list),
    ]);
    assert.equal(chain.from, null, "the next file would be another network");
    return "version" in chain ? chain.version : "";
  };
  assert.match(said("0.2.0"), /^10-old\.conf is of cniVersion 0\.2\.0; ours speaks 0\.3\.0, .*1\.1\.0$/);
  assert.match(said(undefined), /cniVersion 0\.1\.0/);
  assert.match(said("9.0.0"), /cniVersion 9\.0\.0/);
  assert.match(said(1), /cniVersion 1;/);
  const several = { ...list, cniVersions: ["0.4.0", "9.0.0"] };
  assert.match((chained([file("10-a.conflist", several)]) as { version: string }).version, /cniVersion 9\.0\.0;/);
  assert.deepEqual(made(file("10-a.conflist", { ...list, cniVersions: ["0.4.0", "1.1.0"] })), {
    ...list,
    cniVersions: ["0.4.0", "1.1.0"],
    plugins: [bridge, portmap, { type: "trackbed-cni" }],
  });
});
