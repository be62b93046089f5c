// Claims about the daemon's side of control: certificates, node reports, the relay of state. Control is a gRPC server in this process.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport, type ServiceImpl } from "@connectrpc/connect";
import { type NodeReport, Nodes, PodPhase, SettingsSchema } from "#contract/gen/control_pb.ts";
import { CertificateRequestSchema, ResourceType } from "#contract/gen/engine_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import type { Director, StateChange } from "#engine/director.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type XdsResource } from "#xds/resource.ts";
import { readSnapshot } from "#xds/snapshot.ts";
import { certifier, fromPem, toPem } from "./certificates.ts";
import type { PodSpec } from "./desired.ts";
import { reporter } from "./nodes.ts";
import { newRecord, type PodRecord } from "./pod.ts";
import { createRelay } from "./relay.ts";

const DEADLINE_MS = 5000;
const none = { ports: [], cidrs: [] };
const spec: PodSpec = {
  uid: "u",
  namespace: "shop",
  name: "web",
  serviceAccount: "web",
  desired: "enrolled",
  netns: null,
  addresses: [],
  dnsSearch: [],
  capture: { inbound: true, dns: true, excludeOutbound: none, excludeInbound: none, probePorts: [] },
  refused: null,
  annotationFaults: [],
};
const identity = "spiffe://cluster.local/ns/shop/sa/web";
const pem = (text: string): string => toPem(Buffer.from(text), "CERTIFICATE");
const never = new AbortController().signal;

function certify(create: ServiceImpl<typeof IstioCertificateService>["createCertificate"]) {
  const transport = createRouterTransport(({ service }) => void service(IstioCertificateService, { createCertificate: create }));
  return certifier({
    transport,
    trustDomain: () => "cluster.local",
    pod: (uid) => (uid === "u" ? spec : undefined),
    random: () => 0,
    stop: never,
  });
}
const request = create(CertificateRequestSchema, { requestId: 5n, identity, podUid: "u", csr: Buffer.from("csr") });

test("a certificate request names identity and pod, and the answer is split into chain and roots", async () => {
  const seen: unknown[] = [];
  const reply = await certify(async (asked) => {
    seen.push(asked.metadata, asked.csr, asked.validityDuration);
    return { certChain: [pem("leaf"), pem("issuer"), pem("root one") + pem("root two")] };
  })(request);
  assert.deepEqual(seen, [{ ImpersonatedIdentity: identity, PodUid: "u" }, toPem(Buffer.from("csr"), "CERTIFICATE REQUEST"), 86400n]);
  assert.deepEqual(reply.chain.map(String), [String(new Uint8Array(Buffer.from("leaf"))), String(new Uint8Array(Buffer.from("issuer")))]);
  assert.equal(reply.roots.length, 2);
  assert.deepEqual([reply.requestId, reply.code], [5n, ""]);
});

test("an authority that does not know a fresh pod yet is asked again, but not for ever", async () => {
  let asked = 0;
  const reply = await certify(async () => {
    if (++asked < 3) throw new ConnectError("unknown pod", Code.Unauthenticated);
    return { certChain: [pem("leaf"), pem("root")] };
  })(request);
  assert.equal(reply.code, "");
  asked = -100;
  const refused = await certify(async () => {
    asked++;
    throw new ConnectError("unknown pod", Code.Unauthenticated);
  })(request);
  assert.equal(asked, -96);
  assert.equal(refused.code, "E_IDENTITY_REFUSED");
  assert.match(refused.reason, /unknown pod/);
});

test("control that is away is told from control that refuses", async () => {
  const reply = await certify(async () => {
    throw new ConnectError("no route", Code.Unavailable);
  })(request);
  assert.equal(reply.code, "E_CONTROL_AWAY");
});

test("an identity that is not the pod's own never reaches the authority", async () => {
  const ask = certify(async () => assert.fail("the authority was asked"));
  const stolen = create(CertificateRequestSchema, { requestId: 1n, identity: "spiffe://cluster.local/ns/shop/sa/admin", podUid: "u" });
  assert.equal((await ask(stolen)).code, "E_IDENTITY_REFUSED");
  assert.equal((await ask(create(CertificateRequestSchema, { requestId: 1n, identity, podUid: "unknown" }))).code, "E_IDENTITY_REFUSED");
});

test("PEM and DER say the same, however long", () => {
  for (const length of [1, 47, 48, 49, 1000]) {
    const der = new Uint8Array(length).fill(7);
    assert.deepEqual(fromPem(toPem(der, "CERTIFICATE")), [der]);
  }
});

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
  const reports = reporter({
    node: "a",
    transport,
    settings: ({ trustDomain }) => settings.push(trustDomain),
    broken: () => undefined,
    random: () => 0,
  });
  const running = reports.run(stop.signal);
  t.after(async () => {
    stop.abort();
    await running;
  });
  const record = (uid: string, state: PodRecord["state"]): PodRecord => ({ ...newRecord({ ...spec, uid }, null), state });
  return { control, reports, settings, record };
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

const resource = (name: string, version = "1"): XdsResource => ({ name, version, aliases: [], body: new Uint8Array([1]) });

async function relaying(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), "relay-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "snapshot.json");
  const changes: StateChange[] = [];
  const director = { setState: (change: StateChange) => void changes.push(change) } as unknown as Director;
  const roots = () => ["root"];
  const failed = (error: unknown): void => assert.ifError(error);
  const begin = async () => createRelay({ node: "a", roots, path, snapshot: await readSnapshot(path, "a", roots()), director, failed });
  return { changes, begin };
}

test("a part of the first state is not shown to the engine, the whole is", async (t) => {
  const { changes, begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: AUTHORIZATION_TYPE, upsert: [resource("p")], remove: [] });
  assert.equal(changes.length, 0);
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w"), resource("x")], remove: [] });
  relay.synced();
  assert.equal(changes.length, 1);
  assert.equal(changes[0]?.reset, true);
  assert.deepEqual(changes[0]?.upsert.map(({ name }) => name).sort(), ["p", "w", "x"]);
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [], remove: ["x"] });
  assert.deepEqual(changes[1], { reset: false, upsert: [], remove: [{ type: ResourceType.ADDRESS, name: "x" }] });
  await relay.flush();
});

test("a restarted daemon works from the snapshot without control", async (t) => {
  const { changes, begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w", "7")], remove: [] });
  relay.synced();
  relay.setSettings({ trustDomain: "example.org", clusterDomain: "c", network: "", encryptSameNode: true });
  await relay.flush();
  changes.length = 0;
  const again = await begin();
  assert.equal(again.from, "snapshot");
  assert.equal(again.settings?.trustDomain, "example.org");
  assert.deepEqual(
    changes.map(({ reset, upsert }) => [reset, upsert.map(({ name, version }) => [name, version])]),
    [[true, [["w", "7"]]]],
  );
});

test("a daemon that never had a complete state leaves no snapshot", async (t) => {
  const { begin } = await relaying(t);
  const relay = await begin();
  relay.delta({ typeUrl: ADDRESS_TYPE, upsert: [resource("w")], remove: [] });
  await relay.flush();
  assert.equal((await begin()).from, "none");
});
