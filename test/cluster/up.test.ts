// A claim about where a cluster can be: its nodes must see their programs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { requireSight } from "./up.ts";

test("a checkout, or a cache, that nodes would not see is refused with what to do", () => {
  requireSight({ state: "/home/dev/trackbed/.cache/cluster", cache: "/root/.cache/trackbed-cluster" });
  requireSight({ state: "/variety/trackbed/.cache/cluster", cache: "/root/.cache/trackbed-cluster" });
  assert.throws(
    () => requireSight({ state: "/var/tmp/trackbed/.cache/cluster", cache: "/root/.cache/trackbed-cluster" }),
    /lies in \/var, which every node has for itself: clone the project/,
  );
  assert.throws(() => requireSight({ state: "/root/trackbed/.cache/cluster", cache: "/opt/cache" }), /lies in \/opt/);
});
