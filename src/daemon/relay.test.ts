// Claims about the relay of control's state to the engine, and the snapshot of it.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { Director, StateChange } from "#engine/director.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type XdsResource } from "#xds/resource.ts";
import { readSnapshot } from "#xds/snapshot.ts";
import { createRelay } from "./relay.ts";

const resource = (name: string, version = "1"): XdsResource => ({ name, version, aliases: [], body: new Uint8Array([1]) });

async function relaying(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), "relay-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "snapshot.json");
  const changes: StateChange[] = [];
  const director = { setState: (change: StateChange) => void changes.push(change) } as unknown as Director;
  const roots = () => ["root"];
  const failed = (error: unknown): void => assert.ifError(error);
  const begin = async () => createRelay({ node: "a", roots, path, snapshot: await readSnapshot(path, "a", roots()), director, failed });
  return { changes, begin };
}

test("a part of the first state is not shown to the engine, the whole is", async (t) => {
  const { changes, begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: AUTHORIZATION_TYPE, upsert: [resource("p")], remove: [] });
  assert.equal(changes.length, 0);
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w"), resource("x")], remove: [] });
  relay.synced();
  assert.equal(changes.length, 1);
  assert.equal(changes[0]?.reset, true);
  assert.deepEqual(changes[0]?.upsert.map(({ name }) => name).sort(), ["p", "w", "x"]);
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [], remove: ["x"] });
  assert.deepEqual(changes[1], { reset: false, upsert: [], remove: [{ type: ResourceType.ADDRESS, name: "x" }] });
  await relay.flush();
});

test("a restarted daemon works from the snapshot without control", async (t) => {
  const { changes, begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w", "7")], remove: [] });
  relay.synced();
  relay.setSettings({ trustDomain: "example.org", clusterDomain: "c", network: "", encryptSameNode: true });
  await relay.flush();
  changes.length = 0;
  const again = await begin();
  assert.equal(again.from, "snapshot");
  assert.equal(again.settings?.trustDomain, "example.org");
  assert.deepEqual(
    changes.map(({ reset, upsert }) => [reset, upsert.map(({ name, version }) => [name, version])]),
    [[true, [["w", "7"]]]],
  );
});

test("a daemon that never had a complete state leaves no snapshot", async (t) => {
  const { begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w")], remove: [] });
  await relay.flush();
  assert.equal((await begin()).from, "none");
});
