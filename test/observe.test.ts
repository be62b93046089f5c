// What is told of connections without a waypoint: their protocols, and requests of observed pods, counted exactly as real clients made them.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { annotations, paths, ports } from "#contract/tables.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import type { AnswerLine } from "#inspect/question.ts";
import type { PodPlace } from "../src/lab/api.ts";
import { get } from "../src/lab/mesh.ts";
import { until } from "../src/lab/until.ts";
import { address, startTestMesh, type TestMesh } from "./mesh.ts";

const MESH = join(import.meta.dirname, "mesh/mesh.yaml");
const PROGRAMS = join(import.meta.dirname, "programs");
const HTTP = 8080;
const HTTP2 = 8081;
const REDIS = 6379;
const GRPC = 9101;
const WEB_SOCKET = 9102;

let mesh: TestMesh;
let directory: string;

before(async () => {
  mesh = await startTestMesh();
  // The namespace asks for it while its pods are in the mesh already.
  const documents = readFileSync(MESH, "utf8");
  const observed = documents.replace("{ name: app, labels", `{ name: app, annotations: { ${annotations.observe}: full }, labels`);
  assert.notEqual(observed, documents);
  mesh.document("mesh.yaml", observed);
  directory = mkdtempSync(join(tmpdir(), "trackbed-observe-"));
});
after(async () => {
  await mesh?.stop();
  if (directory !== undefined) rmSync(directory, { recursive: true });
});

const listens = (pod: PodPlace, port: number) => async (): Promise<boolean> =>
  (await pod.run(["ss", "-Htln", `sport = :${port}`])).trim() !== "";

/** A program that goes on until the lab ends. */
async function start(pod: PodPlace, command: readonly string[], ...ports: readonly number[]): Promise<void> {
  const child = pod.spawn(command);
  let errors = "";
  child.stderr?.on("data", (text) => (errors += String(text)));
  child.stdout?.resume();
  for (const port of ports) await until(`${command[0]} in ${pod.name} listens at ${port}`, listens(pod, port), 10_000, () => errors);
}

/** Connections that were closed, as one node saw them, oldest first. */
async function closed(node: string, port: number): Promise<FlowRecord[]> {
  const socketPath = join(mesh.lab.node(node).runDirectory, paths.adminSocket);
  const question = { about: "flows", filter: `destination.port == ${port} && phase == closed` };
  const text = await get({ socketPath }, `/v1/ask?${new URLSearchParams({ question: JSON.stringify(question) })}`);
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as AnswerLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
}

const metrics = (node: string): Promise<string> =>
  mesh.lab.node(node).run(["curl", "-sS", `http://127.0.0.1:${ports.engineMetrics}/metrics`]);

/** The sum of a metric's samples that have all of these labels. */
function sum(text: string, name: string, labels: Readonly<Record<string, string>>): number {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  const samples = text.split("\n").filter((line) => line.startsWith(`${name}{`) && wanted.every((label) => line.includes(label)));
  return samples.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" "))), 0);
}

test("requests of nginx are counted by both ends as curl made them, over HTTP/1.1 and HTTP/2, and on one node", async () => {
  const client = mesh.lab.pod("app/client");
  const conf = join(directory, "nginx.conf");
  writeFileSync(conf, nginx());
  writeFileSync(join(directory, "page"), "p".repeat(100_000));
  for (const name of ["app/server", "app/neighbour"]) await start(mesh.lab.pod(name), ["nginx", "-c", conf, "-e", "stderr"], HTTP, HTTP2);
  const to = address(mesh.lab.pod("app/server"));
  const curl = (...options: readonly string[]): Promise<string> => client.run(["curl", "-sS", "-o", "/dev/null", ...options]);
  // New settings are for connections that begin from then on.
  await until("requests are counted", async () => {
    await curl(`http://${to}:${HTTP}/page`);
    return (await Promise.all(["node-a", "node-b"].map(metrics))).every((text) => text.includes("trackbed_observed_requests_total{"));
  });

  const counted = async (labels: Readonly<Record<string, string>>): Promise<number[]> => {
    const of = async (node: string, reporter: string): Promise<number> =>
      sum(await metrics(node), "trackbed_observed_requests_total", { reporter, source_workload: "client", observe: "full", ...labels });
    return [await of("node-a", "source"), await of("node-b", "destination")];
  };
  const kinds = [
    { request_protocol: "http/1.1", response_class: "2xx" },
    { request_protocol: "http/1.1", response_class: "4xx" },
    { request_protocol: "http/2", response_class: "2xx" },
    { request_protocol: "http/2", response_class: "4xx" },
  ];
  const early = await Promise.all(kinds.map(counted));
  await curl(`http://${to}:${HTTP}/page?[1-30]`);
  await curl("-I", `http://${to}:${HTTP}/page?[1-3]`);
  await curl(`http://${to}:${HTTP}/missing?[1-7]`);
  await curl("-H", "Transfer-Encoding: chunked", "--data-binary", `@${join(directory, "page")}`, `http://${to}:${HTTP}/page?[1-2]`);
  // Not by curl, some versions of which break HTTP/2 when they use a connection again.
  for (const [path, count] of [
    ["page", "40"],
    ["missing", "5"],
  ] as const)
    await client.run([process.execPath, join(PROGRAMS, "gets.ts"), `http://${to}:${HTTP2}/${path}`, count]);
  const expected = [33, 9, 40, 5];
  // The last byte reaches curl before the engine has counted its request.
  await until(
    "all are counted",
    async () => {
      const now = await Promise.all(kinds.map(counted));
      return now.every((both, kind) => both.every((count, end) => count - (early[kind]?.[end] ?? 0) === expected[kind]));
    },
    5_000,
    () => "",
  );
  const seconds = sum(await metrics("node-b"), "trackbed_observed_request_duration_milliseconds_count", { request_protocol: "http/2" });
  assert.equal(seconds, 45, "each is in the histogram too");
  const whole = sum(await metrics("node-b"), "trackbed_observed_connections_total", { outcome: "malformed" });
  assert.equal(whole, 0);

  await curl(`http://${address(mesh.lab.pod("app/neighbour"))}:${HTTP}/page?[1-8]`);
  const relayed = async (reporter: string): Promise<number> =>
    sum(await metrics("node-a"), "trackbed_observed_requests_total", {
      reporter,
      destination_workload: "neighbour",
      response_class: "2xx",
    });
  await until("both ends of a relay count", async () => (await relayed("source")) === 8 && (await relayed("destination")) === 8);
});

test("real programs' connections are told with their protocol, and gRPC and a WebSocket are counted", async () => {
  const [client, server] = [mesh.lab.pod("app/client"), mesh.lab.pod("app/server")];
  const to = address(server);
  await start(
    server,
    ["redis-server", "--port", `${REDIS}`, "--bind", "*", "--protected-mode", "no", "--save", "", "--dir", "/run"],
    REDIS,
  );
  await start(server, [process.execPath, join(PROGRAMS, "talk-server.ts"), `${GRPC}`, `${WEB_SOCKET}`], GRPC, WEB_SOCKET);
  for (const port of [GRPC, WEB_SOCKET])
    await start(client, [process.execPath, join(PROGRAMS, "forward.ts"), `${port}`, to, `${port}`, directory], port);
  assert.match(await client.run(["redis-cli", "-h", to, "-p", `${REDIS}`, "ping"]), /PONG/);
  assert.match(await client.run([process.execPath, join(PROGRAMS, "talk-client.ts"), `${GRPC}`, `${WEB_SOCKET}`]), /talked/);
  // Its answer is no TLS: the name is in what the client said first.
  await client.exec(["curl", "-sS", "--resolve", `Shop.example:${HTTP}:${to}`, `https://Shop.example:${HTTP}/`], { timeoutMs: 10_000 });

  for (const [port, protocol, serverName] of [
    [REDIS, "redis", null],
    [GRPC, "grpc", null],
    [WEB_SOCKET, "websocket", null],
    [HTTP, "tls", "shop.example"],
  ] as const)
    for (const node of ["node-a", "node-b"]) {
      const last = await until(`${protocol} is told by ${node}`, async () =>
        (await closed(node, port)).findLast((flow) => flow.protocol === protocol),
      );
      assert.equal(last.serverName, serverName);
    }
  const text = await metrics("node-b");
  assert.equal(
    sum(text, "trackbed_observed_requests_total", { request_protocol: "grpc", response_class: "2xx", grpc_response_status: "0" }),
    1,
  );
  assert.equal(sum(text, "trackbed_observed_requests_total", { request_protocol: "http/1.1", response_class: "1xx" }), 1);
});

const nginx = (): string => `daemon off; master_process off; user root; pid ${directory}/nginx.pid; error_log stderr crit;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/fastcgi;
  scgi_temp_path ${directory}/scgi; uwsgi_temp_path ${directory}/uwsgi;
  server { listen ${HTTP}; listen ${HTTP2} http2; location /page { alias ${directory}/page; } location / { return 404; } }
}
`;
