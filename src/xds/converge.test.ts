import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import {
  type DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  type DeltaDiscoveryResponse,
  DeltaDiscoveryResponseSchema,
} from "#contract/gen/envoy/discovery_pb.ts";
import { BUCKETS_NAME } from "./buckets.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, RESOURCE_TYPES, type Rejection, type TypeUrl, type XdsResource } from "./resource.ts";
import { createSession } from "./session.ts";
import { createStore } from "./store.ts";
import { createDiscoveryStream } from "./stream.ts";

const NAMES = ["a", "b", "c", "d", "e", "f", "g", "h"];

type Step =
  | { kind: "change"; typeUrl: TypeUrl; put: string[]; remove: string[] }
  | { kind: "toServer" }
  | { kind: "toClient" }
  | { kind: "break" }
  | { kind: "refuse"; name: string }
  | { kind: "accept"; name: string };

const some = fc.uniqueArray(fc.constantFrom(...NAMES), { maxLength: 5 });
const change = fc.record({
  kind: fc.constant("change" as const),
  typeUrl: fc.constantFrom(...RESOURCE_TYPES),
  put: some,
  remove: some,
});
const move = fc.constantFrom<Step>({ kind: "toServer" }, { kind: "toClient" });
const loss = fc.constant<Step>({ kind: "break" });
const choice = fc.record({ kind: fc.constantFrom("refuse" as const, "accept" as const), name: fc.constantFrom(...NAMES) });
const calm: fc.Arbitrary<Step> = fc.oneof({ weight: 4, arbitrary: change }, { weight: 6, arbitrary: move }, { weight: 1, arbitrary: loss });
const step: fc.Arbitrary<Step> = fc.oneof({ weight: 10, arbitrary: calm }, { weight: 1, arbitrary: choice });

/** A node and control with the wire between them in the test's hands. */
function mesh(responseBytes: number, heldBytes: number, understands = true) {
  const store = createStore();
  const session = createSession({ id: "node-a", metadata: {} }, RESOURCE_TYPES, new Map(), heldBytes);
  const applied = new Map<TypeUrl, Map<string, XdsResource>>(RESOURCE_TYPES.map((typeUrl) => [typeUrl, new Map()]));
  const refused = new Set<string>();
  let stream = createDiscoveryStream(store, responseBytes);
  let requests: DeltaDiscoveryRequest[] = session.open();
  let seen = new Set<string>();
  let heldAtOpen = session.held();
  let counter = 0;
  store.watch((change) => stream.notice(change));

  const overWire = (response: DeltaDiscoveryResponse): DeltaDiscoveryResponse =>
    fromBinary(DeltaDiscoveryResponseSchema, toBinary(DeltaDiscoveryResponseSchema, response));

  function deliver(response: DeltaDiscoveryResponse): void {
    const received = session.receive(response);
    const table = applied.get(received.delta.typeUrl) ?? new Map();
    const rejections: Rejection[] = [];
    for (const resource of received.delta.upsert) {
      const key = `${received.delta.typeUrl} ${resource.name} ${resource.version}`;
      assert.ok(!seen.has(key), `sent twice on one stream: ${key}`);
      seen.add(key);
      if (refused.has(resource.name)) rejections.push({ name: resource.name, code: "E_POLICY_INVALID", reason: "the test refuses it" });
      else table.set(resource.name, resource);
    }
    for (const name of received.delta.remove) table.delete(name);
    requests.push(received.settle(rejections));
  }

  function toClient(): boolean {
    const response = stream.next();
    if (response === null) return false;
    const { typeUrl, resources } = overWire(response);
    const before = heldAtOpen.get(typeUrl as TypeUrl);
    if (heldBytes > 0)
      for (const { name, version } of resources) assert.notEqual(before?.get(name), version, "a held version was sent again");
    deliver(overWire(response));
    return true;
  }

  function toServer(): boolean {
    const request = requests.shift();
    if (request === undefined) return false;
    const arrived = fromBinary(DeltaDiscoveryRequestSchema, toBinary(DeltaDiscoveryRequestSchema, request));
    // To whom the digests are one more name with some version, everything is news.
    if (!understands && BUCKETS_NAME in arrived.initialResourceVersions) arrived.initialResourceVersions[BUCKETS_NAME] = "?";
    stream.request(arrived);
    return true;
  }

  function reopen(): void {
    stream = createDiscoveryStream(store, responseBytes);
    heldAtOpen = new Map([...session.held()].map(([typeUrl, versions]) => [typeUrl, new Map(versions)]));
    requests = session.open();
    seen = new Set();
  }

  function take(step: Step): void {
    if (step.kind === "change") {
      const upsert = step.put.map((name) => ({
        name,
        version: String(++counter),
        aliases: [`net/${name}`],
        body: Buffer.from(`body ${counter}`),
      }));
      store.update(step.typeUrl, upsert, step.remove);
    } else if (step.kind === "toClient") toClient();
    else if (step.kind === "toServer") toServer();
    else if (step.kind === "break") reopen();
    else if (step.kind === "refuse") refused.add(step.name);
    else refused.delete(step.name);
  }

  function settle(): void {
    while (toServer() || toClient());
  }

  return { store, session, applied, refused, take, settle, reopen };
}

function assertConverged({ store, session, applied }: ReturnType<typeof mesh>): void {
  for (const typeUrl of RESOURCE_TYPES) {
    const offered = [...store.names(typeUrl)].sort();
    const table = applied.get(typeUrl) ?? new Map<string, XdsResource>();
    assert.deepEqual([...table.keys()].sort(), offered);
    for (const name of offered) {
      const resource = store.get(typeUrl, name)?.resource;
      assert.deepEqual(
        { ...table.get(name), body: Buffer.from(table.get(name)?.body ?? []) },
        { ...resource, body: Buffer.from(resource?.body ?? []) },
      );
      assert.equal(session.held().get(typeUrl)?.get(name), resource?.version);
    }
  }
  assert.ok(session.synced());
}

for (const [title, responseBytes, heldBytes, understands] of [
  ["with differences", 1_000_000, 1_000_000, true],
  ["with split responses", 40, 1_000_000, true],
  ["by digests, and split", 40, 0, true],
  ["by digests that control does not understand, and split", 40, 0, false],
] as const) {
  test(`a node converges to the store over any changes, breaks and refusals, ${title}; nothing is sent twice`, () => {
    fc.assert(
      fc.property(fc.oneof(fc.array(step, { maxLength: 80 }), fc.array(calm, { maxLength: 80 })), (steps) => {
        const m = mesh(responseBytes, heldBytes, understands);
        for (const each of steps) m.take(each);
        if (steps.some(({ kind }) => kind === "refuse")) {
          m.refused.clear();
          m.reopen(); // what was refused is only offered again on a new stream
        }
        m.settle();
        assertConverged(m);
      }),
      { numRuns: 600 },
    );
  });
}

test("a node that returns with more than a request holds tells it in a few pages, and gets what changed", () => {
  const store = createStore();
  const session = createSession({ id: "node-a", metadata: {} }, [ADDRESS_TYPE], new Map(), 0);
  const resource = (i: number, version: string) => ({ name: `resource-${i}`, version, aliases: [], body: Buffer.from(`${i} ${version}`) });
  store.update(
    ADDRESS_TYPE,
    Array.from({ length: 20_000 }, (_, i) => resource(i, "1")),
    [],
  );
  function connect(): { sent: number; removed: string[]; asked: number } {
    const stream = createDiscoveryStream(store);
    const requests = session.open();
    const asked = requests.reduce((sum, request) => sum + toBinary(DeltaDiscoveryRequestSchema, request).length, 0);
    for (const request of requests) stream.request(request);
    const removed: string[] = [];
    let sent = 0;
    for (let response = stream.next(); response !== null; response = stream.next()) {
      const received = session.receive(fromBinary(DeltaDiscoveryResponseSchema, toBinary(DeltaDiscoveryResponseSchema, response)));
      sent += received.delta.upsert.length;
      removed.push(...received.delta.remove);
      stream.request(received.settle([]));
    }
    assert.ok(session.synced());
    return { sent, removed, asked };
  }
  assert.equal(connect().sent, 20_000);
  assert.deepEqual({ ...connect(), asked: 0 }, { sent: 0, removed: [], asked: 0 });
  store.update(ADDRESS_TYPE, [resource(7, "2"), resource(20_001, "1")], ["resource-9"]);
  const { sent, removed, asked } = connect();
  assert.ok(asked < 40_000, `${asked} bytes`);
  assert.ok(sent < 120, `${sent} of 20000 sent for three changes`);
  assert.deepEqual(removed, ["resource-9"]);
  assert.equal(session.held().get(ADDRESS_TYPE)?.get("resource-7"), "2");
  assert.equal(connect().sent, 0);
});

test("a refused resource keeps its older version in force and is offered again on the next stream", () => {
  const m = mesh(1_000_000, 1_000_000);
  m.take({ kind: "change", typeUrl: AUTHORIZATION_TYPE, put: ["a"], remove: [] });
  m.settle();
  const first = m.applied.get(AUTHORIZATION_TYPE)?.get("a")?.version;
  m.take({ kind: "refuse", name: "a" });
  m.take({ kind: "change", typeUrl: AUTHORIZATION_TYPE, put: ["a"], remove: [] });
  m.settle();
  assert.equal(m.session.held().get(AUTHORIZATION_TYPE)?.get("a"), first);
  m.take({ kind: "accept", name: "a" });
  m.reopen();
  m.settle();
  assertConverged(m);
});

test("a resource that came and went before the node heard of it is never mentioned", () => {
  const m = mesh(1_000_000, 1_000_000);
  m.settle();
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: ["a"], remove: [] });
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: [], remove: ["a"] });
  m.take({ kind: "toClient" });
  assert.equal(m.applied.get(ADDRESS_TYPE)?.size, 0);
  assertConverged(m);
});

test("what is removed while a whole set still arrives in parts is removed, though an earlier part named it", () => {
  const m = mesh(40, 0);
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: ["a", "b", "c"], remove: [] });
  m.settle();
  m.reopen();
  for (const kind of ["toServer", "toServer", "toClient", "toServer", "toClient"] as const) m.take({ kind });
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: [], remove: ["a"] });
  m.settle();
  assertConverged(m);
});

test("who refused a resource from the start hears of its end all the same", () => {
  const store = createStore();
  const session = createSession({ id: "node-a", metadata: {} }, RESOURCE_TYPES, new Map());
  const stream = createDiscoveryStream(store);
  store.watch((change) => stream.notice(change));
  for (const request of session.open()) stream.request(request);
  const exchange = (refuse: readonly string[]): string[] => {
    const removed: string[] = [];
    for (let response = stream.next(); response !== null; response = stream.next()) {
      const received = session.receive(fromBinary(DeltaDiscoveryResponseSchema, toBinary(DeltaDiscoveryResponseSchema, response)));
      removed.push(...received.delta.remove);
      stream.request(received.settle(refuse.map((name) => ({ name, code: "E_POLICY_INVALID", reason: "no" }))));
    }
    return removed;
  };
  store.update(AUTHORIZATION_TYPE, [{ name: "a", version: "1", aliases: [], body: Buffer.from("a") }], []);
  exchange(["a"]);
  store.update(AUTHORIZATION_TYPE, [], ["a"]);
  assert.deepEqual(exchange([]), ["a"]);
});

test("a node whose last part of a whole set vanished before its turn hears that it has everything", () => {
  const m = mesh(40, 1_000_000);
  for (const kind of ["toServer", "toClient", "toServer"] as const) m.take({ kind });
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: ["a", "h"], remove: [] });
  m.take({ kind: "toClient" });
  m.take({ kind: "change", typeUrl: ADDRESS_TYPE, put: [], remove: ["h"] });
  m.settle();
  assertConverged(m);
});
