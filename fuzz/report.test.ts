import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readReport, TARGETS } from "./report.ts";

const log = `INFO: Seed: 1
#2	INITED cov: 107 ft: 201 corp: 3/21b exec/s: 0 rss: 40Mb
#65536	pulse  cov: 412 ft: 1990 corp: 158/3451b lim: 80 exec/s: 21845 rss: 62Mb
#70012	DONE   cov: 415 ft: 2001 corp: 160/3500b lim: 80 exec/s: 23337 rss: 63Mb
Done 70012 runs in 3 second(s)
stat::number_of_executed_units: 70012
stat::average_exec_per_sec:     23337
stat::new_units_added:          160
stat::slowest_unit_time_sec:    0
stat::peak_rss_mb:              63
`;

test("the figures are those of the end", () => {
  assert.deepEqual(readReport(log), { executions: 70_012, coverage: 415, features: 2001, corpus: 160, memory: 63 });
});

test("a run that broke off has the figures of its last line", () => {
  const broken = log.slice(0, log.indexOf("#70012"));
  assert.deepEqual(readReport(broken), { executions: 65_536, coverage: 412, features: 1990, corpus: 158, memory: 0 });
});

test("the targets are those of the Rust side", () => {
  const seeds = readFileSync(new URL("src/seeds.rs", import.meta.url), "utf8");
  const names = [...seeds.matchAll(/Target \{ name: "(\w+)"/g)].map(([, name]) => name);
  assert.deepEqual(names, [...TARGETS]);
});
