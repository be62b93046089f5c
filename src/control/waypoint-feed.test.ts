// Claims about what a waypoint's engine is told: by difference it comes to hold what it would have got as a whole, at the cost of what changed.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Resource } from "#compile/resource.ts";
import { ResourceType } from "#contract/gen/engine_pb.ts";
import { createLedger, type StateChange } from "#engine/ledger.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import type { Scope } from "#waypoint/waypoint.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "#xds/resource.ts";
import { createStore } from "#xds/store.ts";
import { scopedFeed } from "./waypoint-feed.ts";

const labels = {
  "gateway.networking.k8s.io/gateway-name": "waypoint",
  "gateway.networking.k8s.io/gateway-class-name": "trackbed-waypoint",
};
const pod = podOf(meta("shop", "way", { labels }));
const resource = (name: string, version: number): Resource => ({ name, version: String(version), aliases: [], body: new Uint8Array(1) });

function mesh() {
  const store = createStore();
  const routes = new Map<string, Resource>();
  let scope: Scope | null = { addresses: new Set(["a", "b"]), routes: new Set(["a"]), policies: new Set(["p", "q"]) };
  let ofPods: Resource | null = null;
  const everyPod = (now: Resource | null): void => {
    ofPods = now;
  };
  const policies = {
    access: new Map<string, Resource>(),
    backendSettings: new Map<string, Resource>(),
    requestSettings: new Map<string, Resource>(),
    accessOfPods: () => ofPods,
  };
  const compiler = { scopeOf: (key: string) => (key === "shop/waypoint" ? scope : null), routes: () => routes, policies };
  const feed = scopedFeed({ store, compiler, uidOf: () => "own", adopt: "none" });
  store.watch(feed.touched);
  const setScope = (next: Scope | null): void => {
    scope = next;
  };
  return { store, routes, policies, everyPod, feed, setScope, scope: () => scope };
}

/** What an engine holds that obeys. */
function holder() {
  const held = new Map<string, string>();
  const obey = ({ reset, upsert, remove }: StateChange): void => {
    if (reset) held.clear();
    for (const { type, name } of remove) held.delete(`${type}/${name}`);
    for (const { type, name, version } of upsert) held.set(`${type}/${name}`, version);
  };
  return { held, obey };
}

test("what is outside of its scope costs nothing, and what is inside is told alone", () => {
  const { store, routes, feed } = mesh();
  store.update(ADDRESS_TYPE, [resource("own", 1), resource("a", 1), resource("stranger", 1)], []);
  store.update(AUTHORIZATION_TYPE, [resource("p", 1), resource("stranger", 1)], []);
  routes.set("a", resource("a", 1));
  const follow = feed.open();
  const first = follow(pod);
  const names = (type: ResourceType): string[] =>
    first.upsert
      .filter((one) => one.type === type)
      .map(({ name }) => name)
      .sort();
  assert.equal(first.reset, true);
  assert.deepEqual(
    [names(ResourceType.ADDRESS), names(ResourceType.AUTHORIZATION), names(ResourceType.ROUTES)],
    [["a", "own"], ["p"], ["a"]],
  );
  feed.settled();
  store.update(ADDRESS_TYPE, [resource("stranger", 2)], []);
  store.update(AUTHORIZATION_TYPE, [resource("stranger", 2)], []);
  assert.deepEqual(follow(pod), { reset: false, upsert: [], remove: [] });
  feed.settled();
  store.update(ADDRESS_TYPE, [resource("b", 1)], ["own"]);
  store.update(AUTHORIZATION_TYPE, [resource("q", 1)], []);
  const next = follow(pod);
  assert.deepEqual([next.reset, next.upsert.map(({ name }) => name), next.remove.map(({ name }) => name)], [false, ["q", "b"], ["own"]]);
});

test("by difference it holds what it would get as a whole, whatever changes and whenever it is asked", () => {
  const seed = Number(process.env["TRACKBED_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  let state = seed;
  /** Below `limit`; a linear congruence is even enough. */
  const random = (limit: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % limit;
  };
  const names = ["own", "a", "b", "c", "d", "e"];
  const { store, routes, policies, feed, setScope, everyPod } = mesh();
  const subset = (): Set<string> => new Set(names.filter(() => random(2) === 0));
  let follow = feed.open();
  let engine = holder();
  const ledger = createLedger();
  for (let step = 0; step < 3000; step++) {
    const name = names[random(names.length)] ?? "";
    const what = random(12);
    if (what === 0) store.update(ADDRESS_TYPE, [resource(name, step)], []);
    if (what === 1) store.update(ADDRESS_TYPE, [], [name]);
    if (what === 2) store.update(AUTHORIZATION_TYPE, random(3) === 0 ? [] : [resource(name, step)], random(2) === 0 ? [name] : []);
    if (what === 3) routes.set(name, resource(name, step));
    if (what === 4) routes.delete(name);
    if (what === 5 && random(4) === 0) setScope(random(8) === 0 ? null : { addresses: subset(), routes: subset(), policies: subset() });
    if (what === 7) policies.access.set(name, resource(name, step));
    if (what === 8) policies.access.delete(name);
    if (what === 10) policies.requestSettings.set(name, resource(name, step));
    if (what === 11) {
      if (random(2) === 0) policies.backendSettings.delete(name);
      else policies.backendSettings.set(name, resource(name, step));
    }
    if (what === 9) everyPod(random(2) === 0 ? null : resource("*", step));
    if (what === 6) {
      if (random(10) === 0) [follow, engine] = [feed.open(), holder()]; // another stream
      const change = follow(pod);
      engine.obey(change);
      ledger.change(change);
      if (random(4) > 0) feed.settled(); // an engine that attaches is asked between two looks
      const whole = holder();
      whole.obey(feed.open()(pod));
      assert.deepEqual([...engine.held].sort(), [...whole.held].sort(), `seed ${seed}, step ${step}`);
      assert.equal(ledger.size, whole.held.size, `seed ${seed}, step ${step}`);
    }
  }
});
