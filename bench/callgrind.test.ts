import assert from "node:assert/strict";
import { test } from "node:test";
import { readCallgrind } from "./callgrind.ts";

/** A Rust function that calls memcpy twice, AWS-LC once and another Rust function, whose name is given once and meant twice. */
const text = `version: 1
positions: line
events: Ir
ob=(1) /gate
fl=(1) src/seal.rs
fn=(1) seal
10 100
+2 20
cob=(2) /libc.so
cfi=(2) ???
cfn=(2) memcpy
calls=2 0
* 5000
cfi=(3) gcm.S
cfn=(3) aws_lc_encrypt
calls=1 0
-1 90000
fi=(4) core/slice.rs
7 3
fe=(1)
12 2
fl=(3)
fn=(3)
0 90000

fl=(1)
fn=(4) open
20 50
totals: 95175
`;

test("only Rust's own instructions count, not what was called in AWS-LC or the C library", () => {
  const { instructions, functions } = readCallgrind(text);
  assert.equal(instructions, 100 + 20 + 3 + 2 + 50);
  assert.deepEqual(functions, [
    ["seal", 125],
    ["open", 50],
  ]);
});

test("calls of memcpy from Rust are counted as copies", () => {
  assert.equal(readCallgrind(text).copies, 2);
});
