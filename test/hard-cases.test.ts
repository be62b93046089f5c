// The page of hard cases names tests by file and words: each has to be there.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const ROOT = join(import.meta.dirname, "..");
const NAMED = /((?:native|src|test)\/[\w/.-]+\.(?:rs|ts))((?:(?:,\s*|\s+)"[^"]+")*)/g;
/** Rust names have underscores where a sentence has blanks. */
const plain = (text: string): string => text.replaceAll("_", " ").toLowerCase();

test("every test that the page of hard cases names exists under that name", () => {
  const named = [...readFileSync(join(ROOT, "docs/hard-cases.md"), "utf8").matchAll(NAMED)];
  assert.ok(named.length > 40, `${named.length} references`);
  const missing = named.flatMap(([, file = "", words = ""]) => {
    if (!existsSync(join(ROOT, file))) return [file];
    const source = plain(readFileSync(join(ROOT, file), "utf8"));
    return [...words.matchAll(/"([^"]+)"/g)].flatMap(([, name = ""]) => (source.includes(plain(name)) ? [] : [`${file}: ${name}`]));
  });
  assert.deepEqual(missing, []);
});
