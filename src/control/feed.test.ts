import assert from "node:assert/strict";
import { test } from "node:test";
import type { Compiler, NodeUpdate } from "#compile/compiler.ts";
import type { Change, Fault } from "#source/source.ts";
import { ADDRESS_TYPE } from "#xds/resource.ts";
import { createStore } from "#xds/store.ts";
import { createFaultBoard } from "./faults.ts";
import { startFeed } from "./feed.ts";
import { createQuiet } from "./quiet.ts";
import { createView } from "./view.ts";

const empty: Change = { reset: true, put: [], remove: [], faults: [], places: new Map() };
const resource = { name: "a", version: "1", aliases: [], body: new Uint8Array([1]) };

/** A feed whose source and compiler the test holds in its hands. */
function feed(apply: Compiler["apply"], options: { source?: () => AsyncGenerator<Change>; onChange?: () => Promise<void> } = {}) {
  const stop = new AbortController();
  const store = createStore();
  const first = Promise.withResolvers<Change>();
  async function* source() {
    yield await first.promise;
    if (!stop.signal.aborted) await new Promise((resolve) => stop.signal.addEventListener("abort", resolve));
  }
  const policies = {
    access: new Map(),
    backendSettings: new Map(),
    requestSettings: new Map(),
    accessOfPods: () => null,
    statuses: () => [],
  };
  const nothing = {
    policies,
    awaiting: () => [],
    routes: () => new Map(),
    waypoints: () => [],
    scopeOf: () => null,
    routeStatuses: () => [],
    gatewayStatuses: () => [],
  };
  const compiler: Compiler = { apply, resources: () => [], faults: () => [], objects: () => [], ...nothing };
  const { onChange = async () => undefined } = options;
  const view = createView("cluster.local");
  const started = startFeed(
    { source: options.source ?? source, compiler, store, view, onChange, onCompiled: () => undefined },
    stop.signal,
  );
  return { ...started, stop, store, first };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("nobody is told what exists before the first complete batch is in force and its tokens are read", async () => {
  const gate = Promise.withResolvers<void>();
  const f = feed(() => ({ deltas: [{ typeUrl: ADDRESS_TYPE, upsert: [resource], remove: [] }], recompiled: 1 }), {
    onChange: () => gate.promise,
  });
  let ready = false;
  void f.ready.then(() => {
    ready = true;
  });
  await turn();
  assert.deepEqual([ready, f.store.size(ADDRESS_TYPE)], [false, 0]);
  f.first.resolve(empty);
  await turn();
  assert.deepEqual([ready, f.store.size(ADDRESS_TYPE)], [false, 1]);
  gate.resolve();
  await turn();
  assert.equal(ready, true);
  f.stop.abort();
  await f.done;
});

test("node reports of one moment are compiled together, in their order", async () => {
  const calls: (readonly NodeUpdate[])[] = [];
  const f = feed((_change, nodes = []) => {
    calls.push(nodes);
    return { deltas: [], recompiled: 0 };
  });
  f.first.resolve(empty);
  await f.ready;
  const update = (uid: string): NodeUpdate => ({ node: "node-a", snapshot: false, pods: [{ uid, captured: true }] });
  for (const uid of ["1", "2", "3"]) f.report(update(uid));
  await turn();
  await turn();
  assert.deepEqual(
    calls.map((nodes) => nodes.flatMap(({ pods }) => pods.map(({ uid }) => uid))),
    [[], ["1", "2", "3"]],
  );
  f.stop.abort();
  await f.done;
});

test("a source that fails, ends, or a compiler that throws ends control instead of leaving it half alive", async () => {
  const fails = feed(() => ({ deltas: [], recompiled: 0 }), {
    // biome-ignore lint/correctness/useYield: it fails before the first batch
    source: async function* () {
      throw new Error("unreadable");
    },
  });
  await assert.rejects(fails.ready, /unreadable/);
  await assert.rejects(fails.done, /unreadable/);
  const ends = feed(() => ({ deltas: [], recompiled: 0 }), {
    source: async function* () {
      yield empty;
    },
  });
  await assert.rejects(ends.done, /ended by itself/);
  const throws = feed((change) => {
    if (change === null) throw new Error("a bug");
    return { deltas: [], recompiled: 0 };
  });
  throws.first.resolve(empty);
  await throws.ready;
  throws.report({ node: "node-a", snapshot: true, pods: [] });
  await assert.rejects(throws.done, /a bug/);
});

test("a fault is told once when it appears and once when it is mended", () => {
  const told: string[] = [];
  const board = createFaultBoard(
    ({ file }) => told.push(`+${file}`),
    ({ file }) => told.push(`-${file}`),
  );
  const fault = (file: string, line: number): Fault => ({
    code: "E_SOURCE_INVALID",
    key: null,
    file,
    line,
    field: "spec",
    reason: "wrong",
  });
  board.update([fault("a", 1)]);
  board.update([fault("a", 9), fault("b", 1)]);
  assert.deepEqual(
    board.list().map(({ file, line, next }) => [file, line, next !== ""]),
    [
      ["a", 9, true],
      ["b", 1, true],
    ],
  );
  board.update([fault("b", 1)]);
  assert.deepEqual(told, ["+a", "+b", "-a"]);
});

test("strangers fill no log: ten lines a minute, and the next one says how many were left out", () => {
  let now = 0;
  const quiet = createQuiet(() => now);
  const lines: number[] = [];
  for (let i = 0; i < 1000; i++) quiet((suppressed) => lines.push(suppressed));
  assert.deepEqual(lines, Array(10).fill(0));
  now += 60_000;
  quiet((suppressed) => lines.push(suppressed));
  assert.equal(lines.at(-1), 990);
});
