// The Gateway API's own conformance suite on the cluster before any mesh: what needs no mesh passes, so that a later failure is the mesh's.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { conformance, removeConformance } from "../conformance.ts";
import { readSettings } from "../settings.ts";

const settings = readSettings();

after(() => removeConformance(settings, true));

test("the tests that need no routes pass without it", async (t) => {
  const { code, passed, failed, log } = await conformance(settings, (text) => t.diagnostic(text), "core", []);
  assert.deepEqual(failed, [], log);
  assert.equal(code, 0, log);
  assert.deepEqual(passed, ["MeshBasic"]);
});
