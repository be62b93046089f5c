// Claims about the flow ring: bounded, honest about what a reader missed, strict about what an engine may send.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Direction, FlowPhase, FlowSchema, Path, type ReportBatch, ReportBatchSchema, Verdict } from "#contract/gen/engine_pb.ts";
import type { FlowLine } from "./flow.ts";
import { createFlows } from "./flows.ts";

const SECOND = 1_000_000_000n;

const flow = (id: number, start = 0n) => ({
  id: BigInt(id),
  phase: FlowPhase.OPENED,
  direction: Direction.OUTBOUND,
  path: Path.TUNNEL,
  verdict: Verdict.ALLOWED,
  start,
});
const encoded = (...flows: MessageInitShape<typeof FlowSchema>[]): ReportBatch =>
  create(ReportBatchSchema, { flows: flows.map((one) => toBinary(FlowSchema, create(FlowSchema, one))) });
const batch = (...ids: number[]): ReportBatch => encoded(...ids.map((id) => flow(id)));

async function collect(lines: AsyncIterable<FlowLine>): Promise<string[]> {
  const seen: string[] = [];
  for await (const line of lines) seen.push(text(line));
  return seen;
}

function text(line: FlowLine): string {
  if (line.type === "dropped") return `dropped ${line.count}`;
  if (line.type === "malformed") return `${line.sequence} is malformed: ${line.fault}`;
  return line.type === "flow" ? line.flow.id : line.event.message;
}

const idle = new AbortController().signal;

test("a reader gets what is kept, and no more than that is kept", async () => {
  const flows = createFlows(4);
  flows.take(batch(1, 2, 3, 4, 5, 6));
  assert.deepEqual(await collect(flows.read({ since: 0, follow: false, stop: idle })), ["3", "4", "5", "6"]);
  assert.deepEqual([flows.received, flows.kept], [6, 4]);
});

test("a slow reader loses the oldest and is told how many", async () => {
  const flows = createFlows(4);
  flows.take(batch(1, 2));
  const reader = flows.read({ since: 0, follow: false, stop: idle });
  assert.equal((await reader.next()).value?.type, "flow");
  flows.take(batch(3, 4, 5, 6, 7));
  assert.deepEqual(await collect(reader), ["dropped 2", "4", "5", "6", "7"]);
});

test("a follower gets what comes later, until it stops", async () => {
  const flows = createFlows(4);
  const stop = new AbortController();
  const all = collect(flows.read({ since: 0, follow: true, stop: stop.signal }));
  flows.take(batch(1));
  await new Promise((resolve) => setImmediate(resolve));
  flows.take(create(ReportBatchSchema, { events: [{ message: "worker restarted" }], dropped: 9n }));
  await new Promise((resolve) => setImmediate(resolve));
  stop.abort();
  assert.deepEqual(await all, ["1", "worker restarted"]);
  assert.equal(flows.droppedByEngine, 9);
});

test("since counts the end of a closed connection, not its start", async () => {
  const flows = createFlows(4);
  const long = { ...flow(1), phase: FlowPhase.CLOSED, durationMicroseconds: 10_000_000n };
  flows.take(encoded(long, flow(2), flow(3, 20n * SECOND)));
  assert.deepEqual(await collect(flows.read({ since: 5000, follow: false, stop: idle })), ["1", "3"]);
});

test("what came before since is not looked at, whatever it says of itself", async () => {
  const flows = createFlows(4);
  flows.take(encoded(flow(1, BigInt(Date.now() + 3_600_000) * 1_000_000n)));
  assert.deepEqual(await collect(flows.read({ since: Date.now() + 60_000, follow: false, stop: idle })), []);
});

test("a flow that is not in the contract is told by its number and the field that is wrong, beside those that are", async () => {
  for (const wrong of [{ phase: 0 }, { direction: 9 }, { verdict: 0 }, { path: 77 }] as const) {
    const flows = createFlows(4);
    flows.take(encoded(flow(7), { ...flow(8), ...(wrong as object) }, flow(9)));
    const [field = "", value] = Object.entries(wrong)[0] ?? [];
    const told = await collect(flows.read({ since: 5, follow: false, stop: idle }));
    assert.deepEqual(told, [`2 is malformed: unknown ${field} ${value}`]);
    assert.deepEqual(
      (await collect(flows.read({ since: 0, follow: false, stop: idle }))).filter((line) => line.length === 1),
      ["7", "9"],
    );
  }
});

test("bytes that are no flow are told by their number, however they are broken", async () => {
  const whole = toBinary(FlowSchema, create(FlowSchema, { ...flow(1), podUid: "pod" }));
  const flows = createFlows(8);
  flows.take(create(ReportBatchSchema, { flows: [whole.subarray(0, -1), new Uint8Array([255]), new Uint8Array()] }));
  const told = await collect(flows.read({ since: 0, follow: false, stop: idle }));
  assert.deepEqual(
    told.map((line) => /^\d+ is malformed: (not a Flow: .+|unknown phase 0)$/.test(line)),
    [true, true, true],
    told.join("\n"),
  );
});

test("addresses, times and names are text, and what is not known is null", async () => {
  const flows = createFlows(4);
  const source = {
    address: new Uint8Array([10, 0, 0, 1]),
    port: 4711,
    pod: "web-7d9",
    workload: "web",
    namespace: "shop",
    identity: "spiffe://d/ns/shop/sa/web",
  };
  const destination = { address: new Uint8Array([0xfd, ...Array(14).fill(0), 1]), port: 80 };
  flows.take(encoded({ ...flow(1, 1_700_000_000n * SECOND + 123_456_789n), source, destination, policy: "shop/deny", rule: 0 }));
  const { value } = await flows.read({ since: 0, follow: false, stop: idle }).next();
  assert.ok(value?.type === "flow");
  assert.equal(value.flow.start, "2023-11-14T22:13:20.123456Z");
  assert.deepEqual(value.flow.source, { ...source, address: "10.0.0.1", node: null });
  assert.deepEqual(value.flow.destination, {
    address: "fd00::1",
    port: 80,
    pod: null,
    workload: null,
    namespace: null,
    identity: null,
    node: null,
  });
  assert.deepEqual(
    [value.flow.policy, value.flow.rule, value.flow.code, value.flow.tls, value.flow.service],
    ["shop/deny", 0, null, null, null],
  );
});
