// Claims about exports: real collectors over HTTP and gRPC get every record once, what they cannot have is counted exactly, and nobody waits.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { after, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { CloseBy, Direction, FlowPhase, FlowSchema, Path, type ReportBatch, ReportBatchSchema, Verdict } from "#contract/gen/engine_pb.ts";
import {
  type ExportLogsServiceRequest,
  ExportLogsServiceRequestSchema,
  ExportLogsServiceResponseSchema,
  LogsService,
} from "#contract/gen/opentelemetry/logs_pb.ts";
import { isMeshError } from "#mesh/error.ts";
import { createFlows } from "../flows.ts";
import { collectorSink } from "./collector.ts";
import { createExporter, type Exported, type Sink } from "./exporter.ts";
import { fileSink, outputSink } from "./file.ts";
import { DEFAULT_FILE_BYTES, DEFAULT_FILTER, exportSettings, type OtlpSettings } from "./settings.ts";

const TOTAL_MS = 10_000;
const directory = mkdtempSync(join(tmpdir(), "export-"));
after(() => rmSync(directory, { recursive: true }));

const NOTHING = { otlpEndpoint: "", exportFile: "", exportFileBytes: DEFAULT_FILE_BYTES, exportFilter: DEFAULT_FILTER };
const otlp = (url: string, more: Partial<OtlpSettings> = {}): OtlpSettings => ({
  protocol: "http/protobuf",
  url,
  headers: {},
  ca: null,
  gzip: false,
  timeoutMs: 2000,
  resource: { "service.name": "trackbed" },
  ...more,
});

const flow = (id: number, phase: FlowPhase = FlowPhase.CLOSED) => ({
  id: BigInt(id),
  phase,
  direction: Direction.INBOUND,
  path: Path.TUNNEL,
  verdict: Verdict.DENIED,
  policy: "shop/only-web",
  rule: 1,
  code: "E_POLICY_DENIED",
  responseFlags: "DENY",
  start: 1_700_000_000_123_456_789n,
  source: {
    address: Uint8Array.of(10, 0, 0, 1),
    port: 40_000,
    pod: "web-1",
    workload: "web",
    namespace: "shop",
    identity: "spiffe://x/ns/shop/sa/web",
  },
  destination: { address: Uint8Array.of(10, 0, 0, 2), port: 8080, pod: "api-1", workload: "api", namespace: "pay", node: "node-b" },
  service: "pay/api.pay.svc.cluster.local",
  bytesSent: 7n,
  durationMicroseconds: 2500n,
  tlsVersion: "TLSv1.3",
  tlsCipher: "TLS13_AES_128_GCM_SHA256",
  tlsGroup: "X25519MLKEM768",
  peerSerial: "0a0b",
  closedBy: CloseBy.ENGINE,
  reset: true,
});
const batch = (...ids: number[]): ReportBatch =>
  create(ReportBatchSchema, { flows: ids.map((id) => toBinary(FlowSchema, create(FlowSchema, flow(id)))) });
const range = (count: number): number[] => [...Array(count).keys()];

type Heard = {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly ids: string[];
  readonly whole: ExportLogsServiceRequest;
};

/** A collector whose answers `answer` gives, one for each request. */
async function collector(answer: (heard: Heard, nth: number, response: ServerResponse) => void) {
  const heard: Heard[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const bytes = request.headers["content-encoding"] === "gzip" ? gunzipSync(Buffer.concat(chunks)) : Buffer.concat(chunks);
    const one = heardOf(request.url ?? "", request.headers, fromBinary(ExportLogsServiceRequestSchema, bytes));
    heard.push(one);
    answer(one, heard.length, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/logs`;
  return { heard, url, close: () => server.close().closeAllConnections() };
}

function heardOf(path: string, headers: IncomingMessage["headers"], whole: ExportLogsServiceRequest): Heard {
  const records = whole.resourceLogs.flatMap(({ scopeLogs }) => scopeLogs.flatMap(({ logRecords }) => logRecords));
  return { path, headers, whole, ids: records.map((one) => textOf(one.attributes, "trackbed.id")) };
}

const textOf = (attributes: Heard["whole"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"], key: string): string =>
  String(attributes.find((one) => one.key === key)?.value?.value.value ?? "");

async function settled(counts: () => readonly Exported[], wanted: (one: Exported) => boolean): Promise<Exported> {
  const until = Date.now() + TOTAL_MS;
  for (;;) {
    const [one] = counts();
    if (one !== undefined && wanted(one)) return one;
    if (Date.now() > until) throw new Error(`still ${JSON.stringify(one)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** An export that runs until the returned function is called. */
function begin(sinks: readonly Sink[], kept: number, filter = DEFAULT_FILTER) {
  const flows = createFlows(kept);
  const exporter = createExporter(flows, filter, sinks, 20);
  const stop = new AbortController();
  const ended = exporter.run(stop.signal);
  return {
    flows,
    counts: exporter.counts,
    end: async () => {
      stop.abort();
      await ended;
    },
  };
}

test("a collector gets each record once by the names of the conventions, after it was away too, and is told so", async () => {
  const told: (string | null)[] = [];
  const server = await collector((_, nth, response) =>
    response.writeHead(nth === 1 ? 503 : 200, nth === 1 ? { "retry-after": "0" } : {}).end(),
  );
  const settings = otlp(server.url, { gzip: true, headers: { authorization: "Bearer x" } });
  const run = begin([collectorSink({ settings, node: "node-b", version: "1.2.3", trouble: (reason) => told.push(reason) })], 100);
  run.flows.take(batch(...range(50)));
  await settled(run.counts, ({ taken }) => taken === 50);
  await run.end();
  server.close();
  assert.deepEqual(server.heard[0]?.ids, server.heard[1]?.ids, "the same batch again");
  assert.deepEqual(
    server.heard.slice(1).flatMap(({ ids }) => ids),
    range(50).map(String),
  );
  assert.deepEqual(
    told.map((reason) => reason?.slice(0, 20) ?? null),
    ["it answered HTTP 503", null],
  );
  const [first] = server.heard;
  assert.equal(first?.headers.authorization, "Bearer x");
  const resource = first?.whole.resourceLogs[0];
  assert.equal(textOf(resource?.resource?.attributes ?? [], "k8s.node.name"), "node-b");
  const record = resource?.scopeLogs[0]?.logRecords[0];
  assert.equal(record?.severityText, "WARN");
  assert.equal(record?.timeUnixNano, 1_700_000_000_125_500_000n, "when it ended");
  const expected = {
    "client.address": "10.0.0.1",
    "client.port": "40000",
    "server.address": "api.pay.svc.cluster.local",
    "destination.address": "10.0.0.2",
    "network.transport": "tcp",
    "network.type": "ipv4",
    "tls.protocol.version": "1.3",
    "tls.cipher": "TLS_AES_128_GCM_SHA256",
    "error.type": "E_POLICY_DENIED",
    "trackbed.response_flags": "DENY",
    "trackbed.policy": "shop/only-web",
    "trackbed.source.identity": "spiffe://x/ns/shop/sa/web",
    "trackbed.destination.node": "node-b",
    "trackbed.tls.peer_serial": "0a0b",
    "trackbed.bytes_sent": "7",
    "trackbed.closed_by": "engine",
  };
  assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, textOf(record?.attributes ?? [], key)])), expected);
});

test("what a collector will never take is counted and not tried again, what it took in part is counted by its word", async () => {
  const server = await collector((_, nth, response) => {
    const partial = create(ExportLogsServiceResponseSchema, { partialSuccess: { rejectedLogRecords: 3n, errorMessage: "too old" } });
    if (nth === 1) response.writeHead(400).end("no such tenant");
    else response.writeHead(200).end(toBinary(ExportLogsServiceResponseSchema, partial));
  });
  const told: (string | null)[] = [];
  const run = begin([collectorSink({ settings: otlp(server.url), node: "n", version: "1", trouble: (reason) => told.push(reason) })], 100);
  run.flows.take(batch(...range(10)));
  await settled(run.counts, ({ refused }) => refused === 10);
  run.flows.take(batch(...range(10)));
  assert.deepEqual(await settled(run.counts, ({ taken }) => taken > 0), { sink: "otlp", taken: 7, missed: 0, refused: 13 });
  await run.end();
  server.close();
  assert.match(told[0] ?? "", /HTTP 400: no such tenant/);
  assert.match(told[1] ?? "", /refused 3 of 10 records: too old/);
  assert.equal(server.heard.length, 2);
});

test("while a collector is away the ring goes on, and every record is accounted for: taken, or missed", async () => {
  let open = false;
  const server = await collector((_, __, response) => response.writeHead(open ? 200 : 503).end());
  const sink = collectorSink({
    settings: otlp(server.url),
    node: "n",
    version: "1",
    trouble: () => undefined,
    random: () => 0.5,
    firstRetryMs: 20,
  });
  const run = begin([sink], 64);
  const offered = 1000;
  for (let from = 0; from < offered; from += 10) {
    run.flows.take(batch(...range(10).map((id) => from + id)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  open = true;
  const end = await settled(run.counts, ({ taken, missed, refused }) => {
    const told = new Set(server.heard.flatMap(({ ids }) => ids));
    return told.has(String(offered - 1)) && missed > 0 && refused === 0 && taken > 0;
  });
  await run.end();
  server.close();
  // The lines that tell of a gap are lines too.
  const gaps = new Set(server.heard.filter(({ ids }) => ids.includes(""))).size;
  const ids = new Set(server.heard.flatMap(({ ids }) => ids).filter((id) => id !== ""));
  assert.equal(ids.size + end.missed, offered, JSON.stringify({ ...end, gaps }));
  assert.ok(gaps > 0, "the log says where records are missing");
});

test("over gRPC it is the same: taken, tried again, or refused", async () => {
  const heard: Heard[] = [];
  const fail = [new ConnectError("busy", Code.Unavailable), null, new ConnectError("who are you", Code.Unauthenticated)];
  const server = createHttp2(
    connectNodeAdapter({
      routes: ({ service }) =>
        service(LogsService, {
          export: (request, { requestHeader }) => {
            heard.push(heardOf("", { "x-tenant": requestHeader.get("x-tenant") ?? "" }, request));
            const error = fail[heard.length - 1];
            if (error != null) throw error;
            return {};
          },
        }),
    }),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const settings = otlp(url, { protocol: "grpc", headers: { "x-tenant": "a" }, gzip: true });
  const run = begin([collectorSink({ settings, node: "n", version: "1", trouble: () => undefined, firstRetryMs: 5 })], 100);
  run.flows.take(batch(1, 2));
  await settled(run.counts, ({ taken }) => taken === 2);
  run.flows.take(batch(3));
  assert.deepEqual(await settled(run.counts, ({ refused }) => refused === 1), { sink: "otlp", taken: 2, missed: 0, refused: 1 });
  await run.end();
  server.close();
  assert.deepEqual(
    heard.map(({ ids }) => ids),
    [["1", "2"], ["1", "2"], ["3"]],
  );
  assert.equal(heard[0]?.headers["x-tenant"], "a");
});

test("files hold whole lines, the newest, and never more than they may", async () => {
  const path = join(directory, "flows.jsonl");
  const mostBytes = 40_000;
  const run = begin([fileSink("node-b", { path, mostBytes }, assert.ifError)], 2000, "phase == closed");
  for (let from = 0; from < 200; from += 50) run.flows.take(batch(...range(50).map((id) => from + id)));
  await settled(run.counts, ({ taken }) => taken === 200);
  await run.end();
  const files = readdirSync(directory).filter((name) => name.startsWith("flows.jsonl"));
  assert.deepEqual(files.sort(), ["flows.jsonl", "flows.jsonl.1", "flows.jsonl.2", "flows.jsonl.3"]);
  const lines = [".3", ".2", ".1", ""].flatMap((end) => readFileSync(`${path}${end}`, "utf8").trimEnd().split("\n"));
  const ids = lines.map((line) => Number((JSON.parse(line) as { flow: { id: string } }).flow.id));
  assert.deepEqual(ids, range(200).slice(-ids.length), "the last of them, in their order");
  const longest = Math.max(...lines.map((line) => line.length + 1));
  assert.ok(files.reduce((sum, name) => sum + statSync(join(directory, name)).size, 0) <= mostBytes + 4 * longest);
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test("a file that cannot be written is told of once and counted, and written again when it can be", async () => {
  const path = join(directory, "later", "flows.jsonl");
  const told: unknown[] = [];
  const run = begin([fileSink("n", { path, mostBytes: 1e6 }, (error) => told.push(error))], 100);
  for (const id of [1, 2]) {
    run.flows.take(batch(id));
    await settled(run.counts, ({ refused }) => refused === id);
  }
  const { mkdirSync } = await import("node:fs");
  mkdirSync(join(directory, "later"));
  run.flows.take(batch(3));
  await settled(run.counts, ({ taken }) => taken === 1);
  await run.end();
  assert.match(String(told[0]), /ENOENT/);
  assert.deepEqual(told.slice(1), [null]);
});

test("only what the filter lets through leaves, and an output that nobody reads holds up nobody", async () => {
  const output = new PassThrough({ highWaterMark: 1 });
  const run = begin([outputSink("node-b", output)], 16, "phase == opened");
  run.flows.take(batch(1));
  run.flows.take(create(ReportBatchSchema, { flows: [toBinary(FlowSchema, create(FlowSchema, flow(2, FlowPhase.OPENED)))] }));
  const [chunk] = (await new Promise<Buffer[]>((resolve) => output.once("data", (data: Buffer) => resolve([data])))) ?? [];
  output.pause();
  const line = JSON.parse(String(chunk)) as { node: string; flow: { id: string; start: string; responseFlags: string } };
  assert.deepEqual([line.node, line.flow.id, line.flow.responseFlags], ["node-b", "2", "DENY"]);
  assert.equal(line.flow.start, "2023-11-14T22:13:20.123456Z");
  for (const id of range(200)) run.flows.take(batch(id));
  assert.equal(run.flows.received, 202);
  await run.end();
});

test("settings are those that every exporter knows, and what nobody can mean is refused by name", () => {
  const of = (env: Record<string, string>, given = {}) => exportSettings({ ...NOTHING, ...given }, env).otlp;
  assert.equal(of({}), null);
  assert.equal(of({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318" })?.url, "http://c:4318/v1/logs");
  assert.equal(of({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318/tenant/" })?.url, "http://c:4318/tenant/v1/logs");
  assert.equal(of({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c", OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: "http://d/x" })?.url, "http://d/x");
  assert.equal(of({ OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: "http://d/x" }, { otlpEndpoint: "https://e" })?.url, "https://e/v1/logs");
  const grpc = of({
    OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4317",
    OTEL_EXPORTER_OTLP_LOGS_PROTOCOL: "grpc",
    OTEL_EXPORTER_OTLP_HEADERS: "a=b%20c, d=e",
  });
  assert.deepEqual([grpc?.protocol, grpc?.url, grpc?.headers], ["grpc", "http://c:4317/", { a: "b c", d: "e" }]);
  const root = join(directory, "root.pem");
  writeFileSync(root, "PEM");
  const some = of({
    OTEL_EXPORTER_OTLP_ENDPOINT: "https://c",
    OTEL_EXPORTER_OTLP_CERTIFICATE: root,
    OTEL_RESOURCE_ATTRIBUTES: "k8s.cluster.name=west",
  });
  assert.deepEqual([some?.ca, some?.resource], ["PEM", { "service.name": "trackbed", "k8s.cluster.name": "west" }]);
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://c" };
  for (const [env, given, reason] of [
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "c:4318" }, {}, /endpoint c:4318 is not/],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }, {}, /PROTOCOL=http\/json/],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_COMPRESSION: "zstd" }, {}, /COMPRESSION=zstd/],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_TIMEOUT: "soon" }, {}, /TIMEOUT=soon/],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_HEADERS: "token" }, {}, /HEADERS: "token"… is not key=value/],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_CERTIFICATE: "/none" }, {}, /CERTIFICATE=\/none/],
    [{}, { exportFilter: "verdict = denied" }, /--export-filter verdict = denied/],
    [{}, { exportFile: "flows" }, /--export-file flows/],
  ] as const)
    assert.throws(
      () => of(env, given),
      (error) => isMeshError(error) && error.code === "E_USAGE" && reason.test(error.message),
      String(reason),
    );
});
