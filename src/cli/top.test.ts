// Claims about rows of `trackbed top`: rates over the time that was looked at, success of what ended, the order that was asked for.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { GroupRow } from "#inspect/question.ts";
import { rowsOf } from "./top.ts";

const group = (name: string, counts: Partial<GroupRow>): GroupRow => ({
  time: "2026-01-01T00:00:00.000Z",
  seconds: 10,
  group: { "source.workload": name },
  count: 0,
  ended: 0,
  failed: 0,
  bytesSent: 0,
  bytesReceived: 0,
  latency: [],
  ...counts,
});

const names = (sort: Parameters<typeof rowsOf>[1]): unknown[] =>
  rowsOf(
    [
      group("often", { count: 400, ended: 400, latency: [400] }),
      group("failing", { count: 20, ended: 20, failed: 15, latency: [0, 0, 5] }),
      group("large", { count: 10, ended: 5, bytesSent: 1000, bytesReceived: 1e6, time: "2026-01-01T00:00:10.000Z" }),
    ],
    sort,
  ).map((row) => row.group["source.workload"]);

test("rows come in the order that was asked for", () => {
  assert.deepEqual(names("rate"), ["often", "failing", "large"]);
  assert.deepEqual(names("failed"), ["failing", "often", "large"]);
  assert.deepEqual(names("bytes"), ["large", "often", "failing"]);
  assert.deepEqual(names("p99"), ["failing", "often", "large"]);
});

test("rates are over the time of all rows, and success is of what ended", () => {
  const [row] = rowsOf([group("a", { count: 200, ended: 100, failed: 25 }), group("b", { time: "2026-01-01T00:00:10.000Z" })], "rate");
  assert.deepEqual([row?.rate, row?.failed, row?.success], [10, 1.25, 0.875]);
  assert.equal(rowsOf([group("open", { count: 3 })], "rate")[0]?.success, null, "nothing ended yet");
});
