// Claims about the total that a test run ends with.
import assert from "node:assert/strict";
import { test } from "node:test";
import { countCargo, nothing, render } from "./total.ts";

test("a Rust test that says it is skipped is not counted as passed, and its reason is told", () => {
  const total = nothing();
  for (const line of [
    "running 3 tests",
    "skipped: another_user_is_refused: needs root",
    "test another_user_is_refused ... ok",
    "test result: ok. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.01s",
    "test result: FAILED. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
  ])
    countCargo(total, line);
  assert.deepEqual(total, { passed: 6, failed: 1, skipped: ["another_user_is_refused: needs root", "ignored by its source"] });
});

test("the total is the sum of both languages and comes last", () => {
  const lines = render({ Rust: { passed: 2, failed: 0, skipped: ["a: why"] }, TypeScript: { passed: 3, failed: 1, skipped: [] } }).split(
    "\n",
  );
  assert.deepEqual(lines, [
    "skipped: a: why",
    "Rust         2 passed, 0 failed, 1 skipped",
    "TypeScript   3 passed, 1 failed, 0 skipped",
    "total        5 passed, 1 failed, 1 skipped",
  ]);
});
