// Claims about what a daemon reports of its pods to control, which is a gRPC server in this process.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { type NodeReport, Nodes, PodPhase, SettingsSchema } from "#contract/gen/control_pb.ts";
import { bounds } from "#contract/tables.ts";
import { reporter } from "./nodes.ts";
import { newRecord, type PodRecord } from "./pod.ts";
import { specimen } from "./specimen.ts";

const DEADLINE_MS = 5000;

type Control = { reports: NodeReport[]; streams: number; end(): void; next(holds: () => boolean): Promise<void> };

function nodesServer(): { control: Control; transport: ReturnType<typeof createRouterTransport> } {
  let wake: () => void = () => undefined;
  let end = Promise.withResolvers<never>();
  const control: Control = {
    reports: [],
    streams: 0,
    end: () => {
      const old = end;
      end = Promise.withResolvers<never>();
      old.reject(new ConnectError("control restarts", Code.Unavailable));
    },
    next: async (holds) => {
      const deadline = AbortSignal.timeout(DEADLINE_MS);
      while (!holds()) {
        assert.ok(!deadline.aborted, `${control.reports.length} reports on ${control.streams} streams`);
        await Promise.race([
          new Promise<void>((resolve) => (wake = resolve)),
          new Promise((resolve) => deadline.addEventListener("abort", resolve)),
        ]);
      }
    },
  };
  const transport = createRouterTransport(({ service }) =>
    service(Nodes, {
      attach: async function* (reports) {
        control.streams++;
        const broken = end.promise;
        yield create(SettingsSchema, { trustDomain: "example.org" });
        const incoming = reports[Symbol.asyncIterator]();
        for (;;) {
          const { value, done } = await Promise.race([incoming.next(), broken]);
          if (done) return;
          control.reports.push(value);
          wake();
        }
      },
    }),
  );
  return { control, transport };
}

const phases = ({ pods }: NodeReport): [string, PodPhase][] => pods.map(({ uid, phase }) => [uid, phase]);

async function reporting(t: TestContext) {
  const { control, transport } = nodesServer();
  const stop = new AbortController();
  const settings: string[] = [];
  const clock = { now: 0 };
  const reports = reporter({
    node: "a",
    bootId: "boot",
    transport,
    settings: ({ trustDomain }) => settings.push(trustDomain),
    broken: () => undefined,
    random: () => 0,
    now: () => clock.now,
  });
  const running = reports.run(stop.signal);
  t.after(async () => {
    stop.abort();
    await running;
  });
  const record = (uid: string, state: PodRecord["state"]): PodRecord => ({ ...newRecord(specimen(uid), null), state });
  return { control, reports, settings, record, clock };
}

test("control first hears a snapshot, after every pod was looked at, then only changes", async (t) => {
  const { control, reports, record } = await reporting(t);
  reports.changed(record("one", "captured"));
  reports.changed(record("two", "absent"));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(control.reports.length, 0, "silence about a pod means absent: too early to speak");
  reports.ready();
  await control.next(() => control.reports.length === 1);
  assert.equal(control.reports[0]?.snapshot, true);
  assert.deepEqual(phases(control.reports[0] as NodeReport), [
    ["one", PodPhase.CAPTURED],
    ["two", PodPhase.ABSENT],
  ]);
  reports.changed(record("one", "captured"));
  reports.changed(record("two", "ready"));
  await control.next(() => control.reports.length === 2);
  assert.equal(control.reports[1]?.snapshot, false);
  assert.deepEqual(phases(control.reports[1] as NodeReport), [["two", PodPhase.READY]]);
});

test("a pod that is over is told once and is not in the next snapshot", async (t) => {
  const { control, reports, record } = await reporting(t);
  reports.changed(record("one", "ready"));
  reports.changed(record("two", "ready"));
  reports.ready();
  await control.next(() => control.reports.length === 1);
  reports.forgotten(record("one", "absent"));
  await control.next(() => control.reports.length === 2);
  assert.deepEqual(phases(control.reports[1] as NodeReport), [["one", PodPhase.ABSENT]]);
  control.end();
  await control.next(() => control.streams === 2 && control.reports.length === 3);
  assert.equal(control.reports[2]?.snapshot, true);
  assert.deepEqual(phases(control.reports[2] as NodeReport), [["two", PodPhase.READY]]);
});

test("settings are heard on every stream", async (t) => {
  const { control, reports, settings } = await reporting(t);
  reports.ready();
  await control.next(() => control.reports.length === 1);
  control.end();
  await control.next(() => control.reports.length === 2);
  assert.deepEqual(settings, ["example.org", "example.org"]);
});

test("a pod without a sandbox yet is no news; one that lost its sandbox is", async (t) => {
  const { control, reports } = await reporting(t);
  const gone = { code: "E_CAPTURE_NETNS_GONE", reason: "", next: "", since: "" } as const;
  const lacking = (uid: string, addresses: readonly string[]): PodRecord => ({
    ...newRecord(specimen(uid, { netns: null, addresses }), null),
    problem: gone,
  });
  reports.changed(lacking("unborn", []));
  reports.changed(lacking("rebooted", ["10.0.0.1"]));
  reports.ready();
  await control.next(() => control.reports.length === 1);
  assert.deepEqual(phases(control.reports[0] as NodeReport), [["rebooted", PodPhase.ABSENT]]);
});

test("what every new pod waits for is told as trouble only when connections are not held for it any more", async (t) => {
  const { control, reports, record, clock } = await reporting(t);
  const lacking = (uid: string, code: "E_WORKLOAD_UNKNOWN" | "E_ENGINE_AWAY"): PodRecord => ({
    ...record(uid, "captured"),
    problem: { code, reason: "why", next: "", since: new Date(0).toISOString() },
  });
  const codes = ({ pods }: NodeReport): [string, string][] => pods.map(({ uid, code }) => [uid, code]);
  clock.now = bounds.holdMilliseconds - 1;
  reports.changed(lacking("new", "E_WORKLOAD_UNKNOWN"));
  reports.changed(lacking("other", "E_ENGINE_AWAY"));
  reports.ready();
  await control.next(() => control.reports.length === 1);
  assert.deepEqual(codes(control.reports[0] as NodeReport), [
    ["new", ""],
    ["other", "E_ENGINE_AWAY"],
  ]);
  clock.now = bounds.holdMilliseconds;
  reports.changed(lacking("new", "E_WORKLOAD_UNKNOWN"));
  await control.next(() => control.reports.length === 2);
  assert.deepEqual(codes(control.reports[1] as NodeReport), [["new", "E_WORKLOAD_UNKNOWN"]]);
});

test("a pod of a node that was rebooted is not called absent while nothing of it runs", async (t) => {
  const { control, reports } = await reporting(t);
  const lost = (uid: string, vacant: boolean): PodRecord => ({
    ...newRecord(specimen(uid, { netns: null, vacant }), null),
    problem: { code: "E_CAPTURE_NETNS_GONE", reason: "", next: "", since: "" },
  });
  reports.changed(lost("rebooted", true));
  reports.changed(lost("somewhere", false));
  reports.ready();
  await control.next(() => control.reports.length === 1);
  assert.deepEqual(phases(control.reports[0] as NodeReport), [
    ["rebooted", PodPhase.CAPTURED],
    ["somewhere", PodPhase.ABSENT],
  ]);
});
