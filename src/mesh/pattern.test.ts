// Claims about patterns: what every matcher reads alike passes, what one of them could refuse or read otherwise does not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PATTERN_CHARACTERS, patternFault } from "./pattern.ts";

const SHARED = [
  "",
  "a|b|",
  "/api/v[12]/.*",
  "^(?:GET|POST)$",
  "(?i)chrome|(?i:firefox)",
  "(?P<name>[a-z]+)-(?<n>\\d{1,3}?)",
  "[[:alpha:]_][^[:space:]]*",
  "[]a-]+[^]]",
  "\\x41\\x{7e}\\.\\[\\{\\/",
  "x{0,5}(ab){3,}",
  "[\\d\\w.-]{1,200}",
  "a}b]",
];

const NOT_SHARED = [
  "a**",
  "a+*",
  "a{2}{3}",
  "*a",
  "(?=a)",
  "(?!a)",
  "(?<=a)b",
  "(a)\\1",
  "\\p{Greek}",
  "\\Qa\\E",
  "\\C",
  "\\<a\\>",
  "[a&&b]",
  "[a[b]]",
  "[z-a]",
  "[\\d-z]",
  "a{",
  "a{,3}",
  "a{3,2}",
  "a{1001}",
  "(a{100}){11}",
  "(a",
  "a)",
  "[a",
  "\\",
  "caf\u00e9",
  "a\nb",
  "^*",
  "\\b+",
];

test("what every matcher of RE2's family reads alike is a pattern", () => {
  for (const pattern of SHARED) assert.equal(patternFault(pattern), null, pattern);
});

test("what a matcher could refuse or read in another way is none, and the fault says where", () => {
  for (const pattern of NOT_SHARED) assert.match(patternFault(pattern) ?? "passes", /position \d+$|position \d+/, pattern);
});

test("a shared pattern is a regular expression of the language that this test is written in, too", () => {
  // Groups and flags that are RE2's own are left out.
  for (const pattern of SHARED.filter((one) => !/\(\?[iP]|\[:|\[\]|\^\]|\\x\{/.test(one)))
    assert.doesNotThrow(() => new RegExp(pattern), pattern);
});

test("patterns are bounded in length, in depth, and in what they stand for", () => {
  assert.equal(patternFault("a".repeat(PATTERN_CHARACTERS)), null);
  assert.match(patternFault("a".repeat(PATTERN_CHARACTERS + 1)) ?? "", /longer than/);
  assert.equal(patternFault("[a-z0-9_-]{200}"), null);
  assert.match(patternFault("a{1000}b{1000}c{1000}") ?? "", /more than 4000 characters/);
  assert.match(patternFault("(".repeat(40) + ")".repeat(40)) ?? "", /inside 32 others/);
});
