import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { DeltaDiscoveryRequestSchema, DeltaDiscoveryResponseSchema } from "#contract/gen/envoy/discovery_pb.ts";
import { isMeshError } from "#mesh/error.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type XdsResource } from "./resource.ts";
import { createStore } from "./store.ts";
import { createDiscoveryStream, type DiscoveryStream } from "./stream.ts";

const address = (name: string, version: string, aliases: string[] = [], size = 4): XdsResource => ({
  name,
  version,
  aliases,
  body: Buffer.alloc(size, version),
});

function ask(stream: DiscoveryStream, init: MessageInitShape<typeof DeltaDiscoveryRequestSchema>): string | null {
  return stream.request(create(DeltaDiscoveryRequestSchema, { typeUrl: ADDRESS_TYPE, ...init }));
}

function take(stream: DiscoveryStream) {
  const response = stream.next();
  if (response === null) return null;
  const wire = toBinary(DeltaDiscoveryResponseSchema, response);
  const { resources, removedResources, nonce, systemVersionInfo } = fromBinary(DeltaDiscoveryResponseSchema, wire);
  return {
    names: resources.map(({ name, version }) => `${name}@${version}`),
    removed: removedResources,
    nonce,
    systemVersionInfo,
    bytes: wire.length,
    resources,
  };
}

function server(...resources: XdsResource[]) {
  const store = createStore();
  store.update(ADDRESS_TYPE, resources, []);
  const stream = createDiscoveryStream(store);
  store.watch((change) => stream.notice(change));
  return { store, stream };
}

test("a node that holds everything gets one empty answer, so that it knows", () => {
  const { stream } = server(address("a", "1"));
  ask(stream, { initialResourceVersions: { a: "1" } });
  const answer = take(stream);
  assert.deepEqual([answer?.names, answer?.removed], [[], []]);
  ask(stream, { responseNonce: answer?.nonce ?? "" });
  assert.equal(take(stream), null);
});

test("a returning node gets the difference: changed, new, and removals = held - current", () => {
  const { stream } = server(address("same", "1"), address("changed", "2"), address("new", "1"));
  ask(stream, { initialResourceVersions: { same: "1", changed: "1", gone: "1" } });
  const answer = take(stream);
  assert.deepEqual(answer?.names.sort(), ["changed@2", "new@1"]);
  assert.deepEqual(answer?.removed, ["gone"]);
});

test("while an answer is unacknowledged changes coalesce, and only the newest version goes out", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, {});
  const first = take(stream);
  for (let version = 2; version <= 9; version++) store.update(ADDRESS_TYPE, [address("a", String(version))], []);
  assert.equal(take(stream), null);
  ask(stream, { responseNonce: first?.nonce ?? "" });
  assert.deepEqual(take(stream)?.names, ["a@9"]);
});

test("a body arrives byte for byte as it was put into the store", () => {
  const body = Buffer.from(Array.from({ length: 700 }, (_, i) => i % 256));
  const { stream } = server({ name: "a", version: "1", aliases: ["/10.0.0.1"], body });
  ask(stream, {});
  const [resource] = take(stream)?.resources ?? [];
  assert.deepEqual(Buffer.from(resource?.resource?.value ?? []), body);
  assert.deepEqual([resource?.resource?.typeUrl, resource?.aliases], [ADDRESS_TYPE, ["/10.0.0.1"]]);
});

test("a large set is split below 2 MiB and only its last part says that it is whole", () => {
  const { stream } = server(...Array.from({ length: 50 }, (_, i) => address(`r${i}`, "1", [], 100_000)));
  ask(stream, {});
  const parts = [];
  for (let part = take(stream); part !== null; part = take(stream)) {
    assert.ok(part.bytes < 2.1 * 2 ** 20, `${part.bytes} bytes`);
    parts.push(part);
    ask(stream, { responseNonce: part.nonce });
  }
  assert.equal(parts.flatMap(({ names }) => names).length, 50);
  assert.deepEqual(
    parts.map(({ systemVersionInfo }) => systemVersionInfo.endsWith("+more")),
    [true, true, false],
  );
});

test("a NACK is reported, does not count as acknowledged, and does not loop", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, {});
  const nonce = take(stream)?.nonce ?? "";
  assert.equal(ask(stream, { responseNonce: nonce, errorDetail: { message: "a: unreadable" } }), "a: unreadable");
  assert.equal(take(stream), null);
  const counters = stream.counters().get(ADDRESS_TYPE);
  assert.deepEqual([counters?.nacks, counters?.acks, counters?.acknowledged, counters?.lastNack], [1, 0, 0, "a: unreadable"]);
  store.update(ADDRESS_TYPE, [address("a", "2")], []);
  const next = take(stream);
  assert.deepEqual(next?.names, ["a@2"]);
  assert.equal(ask(stream, { responseNonce: next?.nonce ?? "" }), null);
  assert.equal(stream.counters().get(ADDRESS_TYPE)?.acknowledged, store.revision());
});

test("an answer with an old nonce settles nothing", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, {});
  const nonce = take(stream)?.nonce ?? "";
  ask(stream, { responseNonce: nonce });
  store.update(ADDRESS_TYPE, [address("a", "2")], []);
  take(stream);
  assert.equal(ask(stream, { responseNonce: nonce, errorDetail: { message: "late" } }), null);
  store.update(ADDRESS_TYPE, [address("a", "3")], []);
  assert.equal(take(stream), null);
});

test("on demand, a resource is found by name and by alias, and what does not exist is answered as removed", () => {
  const { store, stream } = server(address("a", "1", ["net/10.0.0.1"]), address("b", "1", ["net/10.0.0.2"]), address("c", "1"));
  ask(stream, { resourceNamesSubscribe: ["*"], resourceNamesUnsubscribe: ["*"] });
  let answer = take(stream);
  assert.deepEqual(answer?.names, []);
  ask(stream, { responseNonce: answer?.nonce ?? "", resourceNamesSubscribe: ["net/10.0.0.1", "c", "net/10.9.9.9"] });
  answer = take(stream);
  assert.deepEqual([answer?.names.sort(), answer?.removed], [["a@1", "c@1"], ["net/10.9.9.9"]]);
  ask(stream, { responseNonce: answer?.nonce ?? "" });

  store.update(ADDRESS_TYPE, [address("a", "2", ["net/10.0.0.1"]), address("b", "2"), address("d", "1", ["net/10.9.9.9"])], []);
  answer = take(stream);
  assert.deepEqual(answer?.names.sort(), ["a@2", "d@1"]);
  ask(stream, { responseNonce: answer?.nonce ?? "" });

  store.update(ADDRESS_TYPE, [], ["a", "b"]);
  answer = take(stream);
  assert.deepEqual([answer?.names, answer?.removed], [[], ["a"]]);
  ask(stream, { responseNonce: answer?.nonce ?? "", resourceNamesUnsubscribe: ["c"] });
  store.update(ADDRESS_TYPE, [address("c", "2")], []);
  assert.equal(take(stream), null);
});

test("a name asked for on demand is answered even when it vanishes before its turn", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, { resourceNamesSubscribe: ["a"] });
  store.update(ADDRESS_TYPE, [], ["a"]);
  assert.deepEqual(take(stream)?.removed, ["a"]);
});

test("types do not wait for each other", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, {});
  take(stream);
  store.update(AUTHORIZATION_TYPE, [address("p", "1")], []);
  ask(stream, { typeUrl: AUTHORIZATION_TYPE });
  assert.deepEqual(take(stream)?.names, ["p@1"]);
});

test("an unknown type and a million names end the stream with a code", () => {
  const { stream } = server();
  const protocol = (error: unknown): boolean => isMeshError(error) && error.code === "E_DISCOVERY_PROTOCOL";
  assert.throws(() => ask(stream, { typeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster" }), protocol);
  assert.throws(() => ask(stream, { resourceNamesSubscribe: Array.from({ length: 70_000 }, (_, i) => `n${i}`) }), protocol);
});

test("twenty thousand changes leave a reader that takes nothing with no more than the names there are", () => {
  const { store, stream } = server(address("a", "1"));
  ask(stream, {});
  const first = take(stream);
  for (let i = 0; i < 20_000; i++) store.update(ADDRESS_TYPE, [address(`pod-${i}`, "1")], i > 0 ? [`pod-${i - 1}`] : []);
  ask(stream, { responseNonce: first?.nonce ?? "" });
  const answer = take(stream);
  assert.deepEqual([answer?.names, answer?.removed], [["pod-19999@1"], []]);
});
