// The judge of the churn itself: it finds what must not be, and is silent about what may.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import type { Account, Member, Record } from "./records.ts";
import { mislabelled, tally, unsettled } from "./tally.ts";

const member = (uid: string, account: Account, guard: Account, meshed = true): Member => ({ uid, account, guard, meshed });
const [red, blue] = [member("r", "red", "red"), member("b", "blue", "red")];
const stranger = member("s", "blue", "red", false);
const reached = (me: Member, by: Member, to = "10.0.0.2", at = 1): Record => ({ kind: "reached", at, me, to, by });
const missed = (me: Member, to: string, at = 1): Record => ({ kind: "missed", at, me, to, why: "ECONNRESET" });

test("an answer to the refused account is a wrong allow, at either end", () => {
  assert.equal(tally([reached(red, blue)]).wrong.length, 1);
  assert.equal(tally([{ kind: "served", at: 1, me: blue, from: red }]).wrong.length, 1);
  assert.deepEqual(tally([reached(blue, red)]), { wrong: [], allowed: { red: 0, blue: 1 }, handovers: 0, missed: 0 });
});

test("who is outside of the mesh may not speak to it, and may be spoken to", () => {
  assert.equal(tally([reached(stranger, red)]).wrong.length, 1);
  assert.deepEqual(tally([reached(red, stranger)]).wrong, []);
});

test("an address that goes to another pod is a hand-over, a pod that keeps it is none", () => {
  const started = (uid: string): Record => ({ kind: "started", at: 1, uid, address: "10.0.0.2", meshMs: 1 });
  assert.equal(tally([started("a"), started("a"), started("b")]).handovers, 1);
});

test("every pair has to have had the last word that policy gives it", () => {
  const present = new Map([
    ["10.0.0.2", red],
    ["10.0.0.3", blue],
  ]);
  assert.equal(unsettled([], present, 0).length, 2);
  assert.deepEqual(unsettled([missed(red, "10.0.0.3"), reached(blue, red)], present, 0), []);
  assert.equal(unsettled([missed(red, "10.0.0.3"), missed(blue, "10.0.0.2")], present, 0).length, 1);
  assert.equal(unsettled([missed(red, "10.0.0.3"), reached(blue, red)], present, 2).length, 2, "older words do not count");
});

test("a flow that calls a pod by another account's identity is found", () => {
  const end = (pod: string | null, account: Account | null): FlowRecord["source"] => ({
    address: "10.0.0.2",
    port: 1,
    pod,
    workload: pod,
    namespace: "churn",
    identity: account === null ? null : `spiffe://cluster.local/ns/churn/sa/${account}`,
    node: null,
  });
  const line = (source: FlowRecord["source"], destination: FlowRecord["source"]): FlowLine => {
    const flow = { direction: "inbound", verdict: "allowed", podUid: "b", source, destination } as Partial<FlowRecord>;
    return { type: "flow", sequence: 1, flow: flow as FlowRecord };
  };
  const members = new Map([
    ["one", red],
    ["two", blue],
  ]);
  assert.deepEqual(mislabelled([line(end(null, "blue"), end("two", "blue"))], members), []);
  assert.equal(mislabelled([line(end("one", "blue"), end("two", "blue"))], members).length, 1, "a wrong name");
  assert.equal(mislabelled([line(end("one", "red"), end("two", "blue"))], members).length, 1, "red at a pod that refuses red");
  assert.equal(mislabelled([line(end(null, null), end("two", "blue"))], members).length, 1, "no identity at all");
  const outbound = (path: "plain" | "tunnel"): FlowLine => {
    const flow = { direction: "outbound", verdict: "allowed", path, podUid: "r", source: end("one", null), destination: end("two", null) };
    return { type: "flow", sequence: 1, flow: flow as FlowRecord };
  };
  assert.deepEqual(mislabelled([outbound("tunnel")], members), []);
  assert.equal(mislabelled([outbound("plain")], members).length, 1, "in clear between two pods of the mesh");
});
