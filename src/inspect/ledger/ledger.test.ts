// Claims about the ledger: exact, bounded whatever comes, older times coarser, there again after a restart, and no file can stop it.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Direction, EdgeAboutSchema, type Edge as EdgeMessage, EdgeSchema, Path, Verdict } from "#contract/gen/engine_pb.ts";
import { type AnswerLine, type EdgesQuestion, readQuestion } from "../question.ts";
import { openBook } from "./book.ts";
import { ledgerFile } from "./file.ts";
import { createLedger, type Ledger } from "./ledger.ts";

const HOUR = 3_600_000;
const NOON = Date.parse("2026-03-01T12:00:00Z");

type End = { readonly workload: string; readonly namespace: string };
type About = {
  readonly direction?: Direction;
  readonly path?: Path;
  readonly verdict?: Verdict;
  readonly policy?: string;
  readonly code?: string;
  readonly source?: End;
  readonly destination?: End;
};

function edge(from: string, to: string, about: About = {}, counts: MessageInitShape<typeof EdgeSchema> = { count: 1n }): EdgeMessage {
  const end = (workload: string) => ({ workload, namespace: "shop", identity: `spiffe://d/ns/shop/sa/${workload}` });
  const whole = {
    direction: Direction.INBOUND,
    path: Path.TUNNEL,
    verdict: Verdict.ALLOWED,
    source: end(from),
    destination: end(to),
    port: 80,
    ...about,
  };
  return create(EdgeSchema, { ...counts, about: toBinary(EdgeAboutSchema, create(EdgeAboutSchema, whole)) });
}

const question = (asked: Partial<EdgesQuestion> = {}): EdgesQuestion => readQuestion({ about: "edges", ...asked }) as EdgesQuestion;

const total = (lines: readonly AnswerLine[]): number =>
  lines.reduce((sum, line) => sum + (line.type === "edge" || line.type === "group" ? line.count : 0), 0);

function ledgerAt(start = NOON): { ledger: Ledger; errors: unknown[]; clock: { at: number } } {
  const clock = { at: start };
  const errors: unknown[] = [];
  const open = ledgerFile(null, (_, error) => errors.push(error));
  return { ledger: createLedger({ open, failed: (error) => errors.push(error), now: () => clock.at }), errors, clock };
}

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

function heldBytes(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

const unwanted = (error: unknown): void => assert.fail(String(error));

function place(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "ledger-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return join(directory, "ledger.db");
}

test("what was counted is there before it is written, after it, and when it is older than its finest step", async () => {
  const { ledger, clock } = ledgerAt();
  for (let second = 0; second < 600; second += 2) {
    clock.at = NOON + second * 1000;
    ledger.take([edge("web", "api", {}, { count: 3n, ended: 2n, bytesSent: 10n, latency: [0n, 1n] })]);
    if (second % 50 === 0) await ledger.keep();
  }
  const counted = async () => {
    const lines = await ledger.answer(question());
    assert.equal(lines.length, 1);
    const [line] = lines;
    assert.ok(line?.type === "edge");
    return [line.count, line.ended, line.bytesSent, line.latency[1], line.time];
  };
  const all = [900, 600, 3000, 300, "2026-03-01T12:00:00.000Z"];
  assert.deepEqual(await counted(), all);
  for (const age of [HOUR, 13 * HOUR, 30 * HOUR]) {
    clock.at = NOON + age;
    await ledger.keep();
    assert.deepEqual(await counted(), all, `after ${age / HOUR} hours`);
  }
  clock.at = NOON + 15 * 24 * HOUR;
  await ledger.keep();
  assert.deepEqual(await ledger.answer(question()), [], "two weeks are kept");
});

test("rows come in steps, and a range has only what touches it", async () => {
  const { ledger, clock } = ledgerAt();
  for (let minute = 0; minute < 10; minute++) {
    clock.at = NOON + minute * 60_000;
    ledger.take([edge("web", "api")]);
    await ledger.keep();
  }
  const steps = await ledger.answer(question({ step: 300 }));
  assert.deepEqual(
    steps.map((line) => line.type === "edge" && [line.time.slice(11, 16), line.seconds, line.count]),
    [
      ["12:00", 300, 5],
      ["12:05", 300, 5],
    ],
  );
  assert.equal(total(await ledger.answer(question({ since: NOON + 120_000, until: NOON + 240_000 }))), 2);
});

test("a connection that both engines counted is told once, unless it is asked for twice", async () => {
  const { ledger } = ledgerAt();
  const outbound = { direction: Direction.OUTBOUND };
  ledger.take([edge("web", "api"), edge("web", "api", outbound), edge("web", "away", { ...outbound, verdict: Verdict.FAILED, path: 0 })]);
  assert.equal(total(await ledger.answer(question())), 2);
  assert.equal(total(await ledger.answer(question({ once: false }))), 3);
});

test("groups add up what is alike in their fields, and say what failed", async () => {
  const { ledger } = ledgerAt();
  const denied = { verdict: Verdict.DENIED, policy: "shop/deny", code: "E_POLICY_DENIED" };
  ledger.take([
    edge("web", "api", {}, { count: 5n, ended: 5n }),
    edge("job", "api", {}, { count: 2n, ended: 1n }),
    edge("job", "api", denied, { count: 3n, ended: 3n }),
  ]);
  const lines = await ledger.answer(question({ by: ["destination.workload"] }));
  assert.deepEqual(
    lines.map((line) => line.type === "group" && [line.group, line.count, line.ended, line.failed]),
    [[{ "destination.workload": "api" }, 10, 9, 3]],
  );
  assert.equal(total(await ledger.answer(question({ filter: "verdict == denied && policy.startsWith('shop/')" }))), 3);
});

test("who may see one namespace is told of nothing that does not touch it", async () => {
  const { ledger } = ledgerAt();
  const far = { source: { workload: "x", namespace: "bank" }, destination: { workload: "y", namespace: "bank" } };
  ledger.take([edge("web", "api"), edge("", "", far)]);
  assert.equal(total(await ledger.answer(question({ namespaces: ["shop"] }))), 1);
  assert.equal(total(await ledger.answer(question({ namespaces: ["none"] }))), 0);
  assert.equal(total(await ledger.answer(question())), 2);
});

// What an engine lets through of a million is bounded by itself, which a test of its own claims; this is twenty times that.
test("a hundred thousand distinct edges are counted to the last one, in bounded memory and a bounded file", async (t) => {
  const path = place(t);
  const errors: unknown[] = [];
  const clock = { at: NOON };
  const open = ledgerFile(path, (_, error) => errors.push(error));
  const ledger = createLedger({ open, failed: (error) => errors.push(error), now: () => clock.at });
  const before = heldBytes();
  const EDGES = 100_000;
  const BATCH = 5_000;
  for (let from = 0; from < EDGES; from += BATCH) {
    clock.at += 2_000;
    // Ever new sources; every tenth to a destination of its own.
    ledger.take(Array.from({ length: BATCH }, (_, i) => edge(`s${from + i}`, i % 10 === 0 ? `d${from + i}` : "api")));
    await ledger.keep();
  }
  const grown = heldBytes() - before;
  const status = ledger.status();
  assert.equal(status.counted, EDGES);
  assert.equal(status.lost, 0);
  assert.ok(status.edges < 10_000, `${status.edges} edges are known`);
  assert.equal(total(await ledger.answer(question())), EDGES, "in the answer, too");
  assert.ok(grown < 32 << 20, `${grown >> 20} MB`);
  await ledger.keep(true);
  ledger.close();
  assert.ok(statSync(path).size < 48 << 20);
  assert.deepEqual(errors, []);
});

test("a new process goes on where the old one ended", async (t) => {
  const path = place(t);
  for (let life = 1; life <= 3; life++) {
    const ledger = createLedger({
      open: ledgerFile(path, (what) => assert.fail(what)),
      failed: unwanted,
      now: () => NOON + life * 60_000,
    });
    ledger.take([edge("web", "api")]);
    await ledger.keep(true);
    assert.equal(total(await ledger.answer(question())), life);
    ledger.close();
    assert.equal(statSync(path).mode & 0o777, 0o600);
  }
});

test("a file that is broken is set aside and said, and counting goes on", async (t) => {
  const path = place(t);
  writeFileSync(path, "this was a ledger once".repeat(1000));
  const said: string[] = [];
  const ledger = createLedger({ open: ledgerFile(path, (what) => said.push(what)), failed: unwanted, now: () => NOON });
  ledger.take([edge("web", "api")]);
  await ledger.keep(true);
  assert.equal(total(await ledger.answer(question())), 1);
  ledger.close();
  assert.deepEqual(readdirSync(join(path, "..")).filter((name) => name.endsWith(".broken")).length, 1);
  assert.match(said.join("\n"), /cannot be used\n.*set aside as .*ledger\.db\.broken/);
});

test("where no file can be, the ledger is in memory and says so", async () => {
  const said: string[] = [];
  const ledger = createLedger({
    open: ledgerFile("/proc/nowhere/ledger.db", (what) => said.push(what)),
    failed: unwanted,
    now: () => NOON,
  });
  ledger.take([edge("web", "api")]);
  await ledger.keep(true);
  assert.equal(total(await ledger.answer(question())), 1);
  assert.match(said.join("\n"), /gone with this process/);
  ledger.close();
});

test("a full file lets the oldest go and takes what is new", async (t) => {
  const path = place(t);
  const clock = { at: NOON };
  const errors: unknown[] = [];
  const ledger = createLedger({ open: () => openBook(path, 1 << 20), failed: (error) => errors.push(error), now: () => clock.at });
  for (let round = 0; round < 100; round++) {
    clock.at += 10_000;
    ledger.take(Array.from({ length: 200 }, (_, i) => edge(`s${i}`, "api")));
    await ledger.keep();
  }
  assert.ok(ledger.status().full <= 1 && statSync(path).size <= 1 << 20);
  assert.equal(total(await ledger.answer(question({ since: clock.at - 30_000 }))) >= 600, true, "the newest are there");
  assert.ok(total(await ledger.answer(question())) < 20_000, "the oldest are not");
  assert.deepEqual(errors, []);
  ledger.close();
});

test("an edge that no engine may send is counted as lost and said", async () => {
  const { ledger, errors } = ledgerAt();
  ledger.take([create(EdgeSchema, { about: new Uint8Array([255]), count: 2n }), edge("web", "api", { verdict: 77 as Verdict })]);
  assert.deepEqual([ledger.status().lost, ledger.status().counted], [3, 3]);
  assert.match(errors.join("\n"), /unknown verdict 77/);
});
