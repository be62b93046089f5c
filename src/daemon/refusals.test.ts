import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { RejectedSchema, ResourceType } from "#contract/gen/engine_pb.ts";
import { createRefusals } from "./refusals.ts";

const rejected = (name: string, version = "1") =>
  create(RejectedSchema, { type: ResourceType.AUTHORIZATION, name, version, code: "E_POLICY_INVALID", reason: "no such action" });

function node(answerMilliseconds = 5000) {
  const director = { settled: true };
  const wanted = new Map<string, string>();
  const refusals = createRefusals({ director: () => director, versionOf: ({ name }) => wanted.get(name), answerMilliseconds });
  const names = async () => (await refusals.untold()).map(({ name }) => name);
  return { director, wanted, refusals, names };
}

test("control is answered when the engine has answered, and hears which resource it refused and why", async () => {
  const { director, wanted, refusals } = node();
  wanted.set("shop/cart", "1");
  director.settled = false;
  const untold = refusals.untold();
  refusals.applied([]); // of an earlier generation
  director.settled = true;
  refusals.applied([rejected("shop/cart")]);
  assert.deepEqual(await untold, [{ name: "shop/cart", code: "E_POLICY_INVALID", reason: "no such action (E_POLICY_INVALID)" }]);
});

test("a refusal is told once on each stream, and again for another version", async () => {
  const { wanted, refusals, names } = node();
  wanted.set("shop/cart", "1");
  refusals.applied([rejected("shop/cart")]);
  assert.deepEqual([await names(), await names()], [["shop/cart"], []]);
  refusals.streamEnded();
  assert.deepEqual(await names(), ["shop/cart"]);
  wanted.set("shop/cart", "2");
  refusals.applied([rejected("shop/cart", "2")]);
  assert.deepEqual(await names(), ["shop/cart"]);
});

test("what was mended or removed is refused no more", async () => {
  const { wanted, refusals, names } = node();
  wanted.set("shop/cart", "1");
  refusals.applied([rejected("shop/cart")]);
  assert.equal([...refusals.all()].length, 1);
  wanted.set("shop/cart", "2");
  assert.deepEqual([await names(), [...refusals.all()]], [[], []]);
});

test("an engine that goes away or never answers keeps nobody waiting", async () => {
  const { director, refusals, names } = node();
  director.settled = false;
  const waiting = names();
  director.settled = true; // without an engine there is nothing to wait for
  refusals.detached();
  assert.deepEqual(await waiting, []);
  const silent = node(5);
  silent.director.settled = false;
  assert.deepEqual(await silent.names(), []);
});
