import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { type DeltaDiscoveryRequest, DeltaDiscoveryRequestSchema, type DeltaDiscoveryResponse } from "#contract/gen/envoy/discovery_pb.ts";
import { createQueue } from "./queue.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "./resource.ts";
import { createXdsServer } from "./server.ts";
import { createStore } from "./store.ts";
import { createTurns } from "./turns.ts";

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("turns are taken in the order of asking, so many at once, and ending one twice gives no second place", async () => {
  const turns = createTurns({ atOnce: 2, silentMilliseconds: 60_000 });
  const begun: number[] = [];
  const ends = [0, 1, 2, 3, 4].map((each) => turns.take().finally(() => begun.push(each)));
  await settled();
  assert.deepEqual(begun, [0, 1]);
  const end = await ends[1];
  end?.end();
  end?.end();
  await settled();
  assert.deepEqual(begun, [0, 1, 2]);
  (await ends[0])?.end();
  (await ends[2])?.end();
  await settled();
  assert.deepEqual(begun, [0, 1, 2, 3, 4]);
});

test("whoever does not answer for too long goes on without holding up the others", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const turns = createTurns({ atOnce: 1, silentMilliseconds: 100 });
  const slow = await turns.take();
  let begun = 0;
  void turns.take().then(() => begun++);
  void turns.take().then(() => begun++);
  mock.timers.tick(99);
  slow.progress();
  mock.timers.tick(99);
  await settled();
  assert.equal(begun, 0);
  mock.timers.tick(1);
  await settled();
  assert.equal(begun, 1);
  slow.progress();
  slow.end();
  await settled();
  assert.equal(begun, 1, "a turn that was over ends nobody else's");
});

/** A control whose streams are played by hand. */
function control(atOnce: number) {
  const store = createStore();
  store.update(ADDRESS_TYPE, [{ name: "a", version: "1", aliases: [], body: new Uint8Array(4) }], []);
  const xds = createXdsServer(store, { authenticate: () => "node", turns: createTurns({ atOnce, silentMilliseconds: 60_000 }) });
  function open() {
    const requests = createQueue<DeltaDiscoveryRequest>();
    const gone = new AbortController();
    const context = { signal: gone.signal } as HandlerContext;
    const responses = xds.service.deltaAggregatedResources?.(requests, context) as AsyncGenerator<DeltaDiscoveryResponse>;
    const got: DeltaDiscoveryResponse[] = [];
    const done = (async () => {
      for await (const response of responses) got.push(response);
    })();
    const ask = (typeUrl: string): void => requests.push(create(DeltaDiscoveryRequestSchema, { typeUrl }));
    const answer = (response: DeltaDiscoveryResponse | undefined): void =>
      requests.push(create(DeltaDiscoveryRequestSchema, { typeUrl: response?.typeUrl ?? "", responseNonce: response?.nonce ?? "" }));
    const leave = (): Promise<void> => {
      gone.abort();
      return done;
    };
    return { got, ask, answer, leave };
  }
  return { store, open };
}

test("a node gets what it lacks when those before it have answered for theirs, and news as they come", async () => {
  const { store, open } = control(1);
  const [first, second, third] = [open(), open(), open()];
  for (const node of [first, second, third]) for (const type of [ADDRESS_TYPE, AUTHORIZATION_TYPE]) node.ask(type);
  await settled();
  assert.deepEqual([first.got.length, second.got.length, third.got.length], [2, 0, 0]);
  first.answer(first.got[0]);
  await settled();
  assert.equal(second.got.length, 0, "the first has not answered for its other type");
  await second.leave();
  first.answer(first.got[1]);
  await settled();
  assert.equal(third.got.length, 2, "one that left while it waited gives its place on");
  store.update(ADDRESS_TYPE, [{ name: "a", version: "2", aliases: [], body: new Uint8Array(4) }], []);
  await settled();
  assert.equal(first.got.length, 3, "who has caught up needs no turn");
  const fourth = open();
  fourth.ask(ADDRESS_TYPE);
  await settled();
  assert.equal(fourth.got.length, 0);
  await third.leave();
  await settled();
  assert.equal(fourth.got.length, 1, "one that leaves in the middle ends its turn");
  await Promise.all([first.leave(), fourth.leave()]);
});
