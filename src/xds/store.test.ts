import assert from "node:assert/strict";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { ResourceSchema } from "#contract/gen/envoy/discovery_pb.ts";
import { ADDRESS_TYPE } from "./resource.ts";
import { createStore } from "./store.ts";

test("a resource is kept as the bytes that its message has, whatever is in it and whatever was written before", () => {
  const resource = fc.record({
    name: fc.string({ minLength: 1, unit: "grapheme" }),
    version: fc.string({ minLength: 1 }),
    aliases: fc.array(fc.string({ unit: "grapheme" }), { maxLength: 3 }),
    body: fc.uint8Array({ minLength: 1, maxLength: 300 }),
  });
  fc.assert(
    fc.property(fc.uniqueArray(resource, { selector: ({ name }) => name, maxLength: 5 }), (resources) => {
      const store = createStore();
      store.update(ADDRESS_TYPE, resources, []);
      for (const { name, version, aliases, body } of resources) {
        const message = create(ResourceSchema, { name, version, aliases, resource: { typeUrl: ADDRESS_TYPE, value: body } });
        const wanted = new BinaryWriter().bytes(toBinary(ResourceSchema, message)).finish();
        assert.deepEqual(new Uint8Array(store.get(ADDRESS_TYPE, name)?.wire ?? []), new Uint8Array(wanted));
      }
    }),
  );
});
