// Claims about when a service is kept to its waypoint: every attached node has taken in what came before, and nobody holds it up for ever.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Resource } from "#compile/resource.ts";
import type { DestinationKey } from "#waypoint/destination.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "#xds/resource.ts";
import { createStore } from "#xds/store.ts";
import { createExclusivity, type ExclusivityOptions } from "./exclusivity.ts";

const WEB: DestinationKey = "Service/shop/web";
const resource = (name: string, version: number): Resource => ({ name, version: String(version), aliases: [], body: new Uint8Array(1) });

function control(t: TestContext, times: ExclusivityOptions["times"] = {}) {
  const store = createStore();
  const nodes = new Map<string, number>();
  let awaiting: DestinationKey[] = [];
  const released: DestinationKey[] = [];
  const counters = { responses: 0, resources: 0, removals: 0, acks: 0, nacks: 0, lastNack: "" };
  const exclusivity = createExclusivity({
    store,
    streams: () => [...nodes.values()].map((acknowledged) => ({ types: () => new Map([[ADDRESS_TYPE, { ...counters, acknowledged }]]) })),
    awaiting: () => awaiting,
    release: (keys) => {
      released.push(...keys);
      awaiting = awaiting.filter((key) => !keys.includes(key));
    },
    times: { pollMilliseconds: 2, leastMilliseconds: 0, mostMilliseconds: 60_000, ...times },
  });
  t.after(() => exclusivity.close());
  const wait = (): void => {
    awaiting = [WEB];
    exclusivity.look();
  };
  const until = async (done: () => boolean): Promise<void> => {
    for (const end = performance.now() + 10_000; !done(); await new Promise((resolve) => setTimeout(resolve, 2)))
      if (performance.now() > end) assert.fail("not within 10 s");
  };
  return { store, nodes, exclusivity, released, wait, until };
}

test("it waits for every node to acknowledge the addresses that there were, and not for what comes later", async (t) => {
  const c = control(t);
  c.store.update(ADDRESS_TYPE, [resource("a", 1)], []);
  const [before, behind] = [c.store.revision(), c.store.revision() - 1];
  c.nodes.set("n1", before).set("n2", behind);
  c.wait();
  c.store.update(ADDRESS_TYPE, [resource("a", 2)], []);
  c.exclusivity.look();
  assert.deepEqual(c.released, []);
  c.nodes.set("n2", before);
  await c.until(() => c.released.length > 0);
  assert.deepEqual(c.released, [WEB]);
});

test("a mesh in which nothing moves waits for nobody: what nodes acknowledged last is all there is", async (t) => {
  const c = control(t);
  c.store.update(ADDRESS_TYPE, [resource("a", 1)], []);
  c.nodes.set("n1", c.store.revision());
  c.store.update(AUTHORIZATION_TYPE, [resource("p", 1)], []);
  c.wait();
  assert.deepEqual(c.released, [WEB]);
});

test("a node that does not answer is not waited for without end", async (t) => {
  const c = control(t, { mostMilliseconds: 30 });
  c.store.update(ADDRESS_TYPE, [resource("a", 1)], []);
  c.nodes.set("n1", 0);
  c.wait();
  assert.deepEqual(c.released, []);
  await c.until(() => c.released.length > 0);
});

test("nodes of another replica have a moment, too", async (t) => {
  const c = control(t, { leastMilliseconds: 40 });
  const began = performance.now();
  c.wait();
  await c.until(() => c.released.length > 0);
  assert.ok(performance.now() - began >= 39);
});
