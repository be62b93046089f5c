import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshObject } from "#mesh/objects.ts";
import { projectDocument } from "#source/project/project.ts";
import type { Change } from "#source/source.ts";
import { endingBypasses } from "./bypass.ts";

const namespace = (name: string, until: Date | null): MeshObject => {
  const annotations = until === null ? {} : { "trackbed.dev/bypass-until": until.toISOString() };
  const { object } = projectDocument({ apiVersion: "v1", kind: "Namespace", metadata: { name, annotations } });
  assert.ok(object !== null);
  return object;
};
const change = (more: Partial<Change>): Change => ({ reset: false, put: [], remove: [], faults: [], places: new Map(), ...more });

test("a namespace whose bypass ends is told again at that moment, once; one whose bypass was taken back or that is gone is not", {
  timeout: 10_000,
}, async () => {
  const stop = new AbortController();
  const soon = new Date(60);
  let now = 0;
  const faults: Change["faults"] = [{ code: "E_SOURCE_INVALID", key: null, file: "f", line: 1, field: "", reason: "kept" }];
  async function* source(signal: AbortSignal) {
    yield change({
      reset: true,
      put: [namespace("a", soon), namespace("taken-back", soon), namespace("gone", soon), namespace("plain", null)],
    });
    yield change({ put: [namespace("taken-back", null)], remove: ["Namespace//gone"], faults });
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  }
  const seen: Change[] = [];
  for await (const one of endingBypasses(source, () => now)(stop.signal)) {
    seen.push(one);
    if (seen.length === 2) now = 60;
    if (seen.length === 3) setTimeout(() => stop.abort(), 100);
  }
  assert.equal(seen.length, 3);
  assert.deepEqual([seen[2]?.reset, seen[2]?.put.map(({ metadata }) => metadata.name), seen[2]?.faults], [false, ["a"], faults]);
});
