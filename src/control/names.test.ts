// Claims about the names of ServiceEntries: asked in time, told when they change, and kept when nobody answers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { entry } from "#compile/specimen.ts";
import type { ServiceEntry } from "#mesh/objects.ts";
import type { Change } from "#source/source.ts";
import { resolvingNames } from "./names.ts";

const named = (name: string): ServiceEntry => entry("shop", name, { resolution: "DNS", endpoints: [] });
const batch = (more: Partial<Change>): Change => ({ reset: false, put: [], remove: [], faults: [], places: new Map(), ...more });

/** A source that the test speaks through, and what comes out of it. */
function follow(
  resolve: (name: string) => Promise<string[]>,
  times = { leastMilliseconds: 5, mostMilliseconds: 10, firstMilliseconds: 1000 },
) {
  const stop = new AbortController();
  const waiting: Change[] = [];
  let wake = Promise.withResolvers<void>();
  const source = async function* (): AsyncGenerator<Change> {
    while (!stop.signal.aborted) {
      const change = waiting.shift();
      if (change === undefined) await wake.promise;
      else yield change;
    }
  };
  const troubles: string[] = [];
  const changes = resolvingNames(source, {
    resolve: async (name) => ({ addresses: await resolve(name), ttlSeconds: 0 }),
    onTrouble: (name, error) => troubles.push(`${name} ${error === null ? "mended" : String(error)}`),
    times,
  })(stop.signal)[Symbol.asyncIterator]();
  return {
    troubles,
    say: (change: Change) => {
      waiting.push(change);
      wake.resolve();
      wake = Promise.withResolvers();
    },
    next: async (): Promise<Change> => (await changes.next()).value as Change,
    end: async () => {
      stop.abort();
      wake.resolve();
      await changes.return?.();
    },
  };
}
const resolved = (change: Change) => change.put.map((one) => (one.kind === "ServiceEntry" ? one.resolved : null));

test("the first batch already says what its names mean, and a change is told by itself", async () => {
  let answer = ["198.51.100.2", "198.51.100.1"];
  const mesh = follow(async () => answer);
  mesh.say(batch({ reset: true, put: [named("db"), entry("shop", "static")] }));
  assert.deepEqual(resolved(await mesh.next()), [{ "db.example.com": ["198.51.100.1", "198.51.100.2"] }, {}]);
  answer = ["198.51.100.3"];
  assert.deepEqual(resolved(await mesh.next()), [{ "db.example.com": ["198.51.100.3"] }]);
  answer = [];
  assert.deepEqual(resolved(await mesh.next()), [{ "db.example.com": [] }]);
  await mesh.end();
});

test("who does not answer changes nothing, is told once, and holds nobody's changes up", async () => {
  let fails = false;
  let asked = 0;
  const mesh = follow(async () => {
    asked++;
    if (fails) throw new Error("SERVFAIL");
    return ["198.51.100.1"];
  });
  mesh.say(batch({ reset: true, put: [named("db")] }));
  await mesh.next();
  fails = true;
  const before = asked;
  mesh.say(batch({ put: [entry("shop", "other")] }));
  assert.equal((await mesh.next()).put[0]?.metadata.name, "other");
  const quiet = mesh.next(); // nothing comes while it fails
  while (asked < before + 3) await new Promise(setImmediate);
  assert.deepEqual(mesh.troubles, ["db.example.com Error: SERVFAIL"]);
  mesh.say(batch({ put: [named("db")] }));
  assert.deepEqual(resolved(await quiet), [{ "db.example.com": ["198.51.100.1"] }], "what it meant last");
  fails = false;
  const soon = mesh.next();
  while (mesh.troubles.length < 2) await new Promise(setImmediate);
  assert.equal(mesh.troubles[1], "db.example.com mended");
  mesh.say(batch({ remove: ["ServiceEntry/shop/db"] }));
  assert.deepEqual((await soon).remove, ["ServiceEntry/shop/db"]);
  await mesh.end();
});

test("a resolver that never answers does not keep the first batch longer than its time", async () => {
  const mesh = follow(() => new Promise(() => undefined), { leastMilliseconds: 5, mostMilliseconds: 10, firstMilliseconds: 20 });
  mesh.say(batch({ reset: true, put: [named("db")] }));
  assert.deepEqual(resolved(await mesh.next()), [{}]);
  mesh.say(batch({ put: [entry("shop", "other")] }));
  assert.equal((await mesh.next()).put[0]?.metadata.name, "other");
  await mesh.end();
});
