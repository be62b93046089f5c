// What `trackbed pcap` writes is what the applications said: read back by tshark, of real programs and byte by byte, on every path.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { PodPlace } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import { address, startTestMesh, type TestMesh } from "./mesh.ts";
import { pattern } from "./programs/pattern.ts";
import { type Agent, startAgent } from "./programs/remote.ts";
import { canRead, fields, follow } from "./tshark.ts";

const CLI = join(import.meta.dirname, "../src/cli/main.ts");
const PROGRAMS = join(import.meta.dirname, "programs");
const AGENT = 9100;
const HTTP = 8080;
const REDIS = 6379;
const GRPC = 9101;
const WEB_SOCKET = 9102;
const MEBIBYTE = 1 << 20;
/** More than a segment, a record and a turn of a pump. */
const BULK = 400_000;

const skip = canRead() ? false : "tshark is not installed";
let mesh: TestMesh;
let directory: string;
const agents = new Map<string, Agent>();

before(async () => {
  if (skip !== false) return;
  mesh = await startTestMesh();
  directory = mkdtempSync(join(tmpdir(), "trackbed-pcap-"));
  for (const name of ["app/client", "app/server", "app/neighbour", "legacy/outsider"]) {
    const agent = await startAgent(mesh.lab.pod(name));
    await agent.listen(AGENT);
    agents.set(name, agent);
  }
});
after(async () => {
  await mesh?.stop();
  if (directory !== undefined) rmSync(directory, { recursive: true });
});

function agent(name: string): Agent {
  const found = agents.get(name);
  assert.ok(found, name);
  return found;
}

/** A program that says "listening", or nothing, and goes on until the lab ends. */
async function start(pod: PodPlace, command: readonly string[], isUp: () => Promise<boolean>): Promise<void> {
  const child = pod.spawn(command);
  let errors = "";
  child.stderr?.on("data", (text) => (errors += String(text)));
  child.stdout?.resume();
  await until(`${command[0]} in ${pod.name} answers`, isUp, 10_000, () => errors);
}

const listens = (pod: PodPlace, port: number) => async (): Promise<boolean> =>
  (await pod.run(["ss", "-Htln", `sport = :${port}`])).trim() !== "";

type Capturing = { stop(): Promise<string> /** What was told at the end. */; readonly file: string; readonly child: ChildProcess };

/** Runs `trackbed pcap` until `stop`. Resolves once every pod is recorded. */
async function capture(pods: readonly string[], ...more: readonly string[]): Promise<Capturing> {
  const file = join(directory, `${pods.join("-").replaceAll("/", "-")}-${performance.now()}.pcapng`);
  const runs = ["node-a", "node-b"].flatMap((node) => ["--run", mesh.lab.node(node).runDirectory]);
  const child = spawn(process.execPath, [CLI, "pcap", ...pods.map((pod) => `pod/${pod}`), ...runs, "-w", file, ...more], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let told = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (told += text));
  await until(
    "it records",
    () => {
      if (child.exitCode !== null) throw new Error(told);
      return told.includes("or Ctrl-C");
    },
    10_000,
    () => told,
  );
  const closed = once(child, "close");
  return {
    file,
    child,
    async stop() {
      child.kill("SIGINT");
      const [code] = await closed;
      assert.equal(code, 0, told);
      return told;
    },
  };
}

type Stream = {
  readonly number: number;
  readonly face: string;
  readonly client: string;
  readonly clientPort: number;
  readonly server: string;
  readonly serverPort: number;
  readonly comment: string;
};

const SYN = [
  "tcp.stream",
  "frame.interface_name",
  "ip.src",
  "ipv6.src",
  "tcp.srcport",
  "ip.dst",
  "ipv6.dst",
  "tcp.dstport",
  "frame.comment",
] as const;

const streamsOf = (file: string): Stream[] =>
  fields(file, "tcp.flags.syn==1 && tcp.flags.ack==0", SYN).map((row) => ({
    number: Number(row["tcp.stream"]),
    face: row["frame.interface_name"],
    client: row["ip.src"] || row["ipv6.src"],
    clientPort: Number(row["tcp.srcport"]),
    server: row["ip.dst"] || row["ipv6.dst"],
    serverPort: Number(row["tcp.dstport"]),
    comment: row["frame.comment"],
  }));

/** Whatever Wireshark's own analysis of TCP finds odd. */
const oddities = (file: string, streams: readonly number[]): string[] =>
  fields(file, `tcp.analysis.flags && (${streams.map((stream) => `tcp.stream==${stream}`).join(" || ")})`, [
    "frame.number",
    "_ws.expert.message",
  ]).map((row) => JSON.stringify(row));

test("every byte of every path is in the capture, both ways, in order and with right numbers", { skip }, async () => {
  const capturing = await capture(["app/client"]);
  const client = agent("app/client");
  const paths = [
    ["tunnel", "app/server"],
    ["relay", "app/neighbour"],
    ["plain", "legacy/outsider"],
  ] as const;
  const talks: { path: string; port: number; to: string; up: Buffer; down: Buffer }[] = [];
  for (const [path, name] of paths)
    for (const family of [4, 6] as const) {
      const server = agent(name);
      const to = address(server.pod, family);
      const near = await client.connect(to, AGENT);
      const far = await server.accept(AGENT);
      const [question, answer] = [text(100), text(77)];
      await near.write(question);
      assert.equal((await far.read(question.length)).text, question);
      await far.write(answer);
      assert.equal((await near.read(answer.length)).text, answer);
      for (const [from, by, seed] of [
        [near, far, 1],
        [far, near, 2],
      ] as const) {
        await from.send(BULK, seed);
        assert.equal(await by.check(BULK, seed), null);
      }
      await near.finish();
      assert.equal((await far.read()).end, "fin");
      await far.finish();
      assert.equal((await near.read()).end, "fin");
      talks.push({ path, port: near.port, to, up: said(question, 1), down: said(answer, 2) });
    }
  await capturing.stop();
  const streams = streamsOf(capturing.file);
  assert.equal(streams.length, talks.length);
  const followed = follow(
    capturing.file,
    streams.map(({ number }) => number),
  );
  for (const { path, port, to, up, down } of talks) {
    const stream = streams.find((one) => one.clientPort === port && one.server === to && one.serverPort === AGENT);
    const heard = followed.get(stream?.number ?? -1);
    assert.ok(stream && heard, `${path} to ${to}`);
    assert.equal(stream.face, "app/client");
    assert.match(stream.comment, new RegExp(`path ${path}`));
    assert.ok(heard.client.equals(up), `${path} to ${to}: what the server heard`);
    assert.ok(heard.server.equals(down), `${path} to ${to}: what the client heard`);
  }
  const numbers = streams.map(({ number }) => number);
  assert.deepEqual(oddities(capturing.file, numbers), []);
  const fins = fields(capturing.file, "tcp.flags.fin==1", ["tcp.stream"]);
  assert.equal(fins.length, 2 * talks.length, "both sides of each said FIN");
  const bad = fields(
    capturing.file,
    "ip.checksum.status==0 || tcp.checksum.status==0",
    ["frame.number"],
    ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"],
  );
  assert.deepEqual(bad, []);
});

test("real programs are decoded: HTTP of nginx, Redis, gRPC and a WebSocket", { skip }, async () => {
  const [client, server] = [mesh.lab.pod("app/client"), mesh.lab.pod("app/server")];
  const kept = join(directory, "kept");
  mkdirSync(kept);
  const conf = join(directory, "nginx.conf");
  writeFileSync(conf, nginx(HTTP));
  writeFileSync(join(directory, "page"), text(100_000));
  await start(server, ["nginx", "-c", conf, "-e", "stderr"], listens(server, HTTP));
  await start(
    server,
    ["redis-server", "--port", `${REDIS}`, "--bind", "*", "--protected-mode", "no", "--save", "", "--dir", "/run"],
    listens(server, REDIS),
  );
  await start(server, [process.execPath, join(PROGRAMS, "talk-server.ts"), `${GRPC}`, `${WEB_SOCKET}`], listens(server, WEB_SOCKET));
  for (const port of [HTTP, REDIS, GRPC, WEB_SOCKET])
    await start(
      client,
      [process.execPath, join(PROGRAMS, "forward.ts"), `${port}`, address(server), `${port}`, kept],
      listens(client, port),
    );

  const capturing = await capture(["app/client", "app/server"]);
  const page = await client.run(["curl", "-sS", "--fail", `http://127.0.0.1:${HTTP}/page?size=large`]);
  assert.equal(page.length, 100_000);
  assert.match(await client.run(["redis-cli", "-p", `${REDIS}`, "set", "trackbed", "a value of redis"]), /OK/);
  assert.match(await client.run(["redis-cli", "-p", `${REDIS}`, "get", "trackbed"]), /a value of redis/);
  assert.match(await client.run([process.execPath, join(PROGRAMS, "talk-client.ts"), `${GRPC}`, `${WEB_SOCKET}`]), /talked/);
  const told = await capturing.stop();
  assert.match(told, /recording app\/client on node-a/);
  assert.match(told, /recording app\/server on node-b/);

  const { file } = capturing;
  assert.deepEqual(
    fields(file, 'http.request && frame.interface_name=="app/client"', ["http.request.uri"]).map((row) => row["http.request.uri"]),
    ["/page?size=large", "/talk"],
  );
  assert.ok(fields(file, "http.response.code==200", ["http.content_length"]).some((row) => row["http.content_length"] === "100000"));
  const redis = fields(file, "resp", ["frame.number"], ["-d", `tcp.port==${REDIS},resp`]);
  assert.ok(redis.length > 0, "RESP is decoded");
  const grpc = fields(file, "grpc", ["grpc.message_length"], ["-d", `tcp.port==${GRPC},http2`]);
  assert.ok(grpc.length >= 2, "question and answer of gRPC");
  assert.ok(fields(file, "websocket", ["websocket.opcode"]).length >= 2);

  // Both pods' interfaces hold each connection; the client's port names it. What the program in front of the client kept is the truth.
  const streams = streamsOf(file);
  const followed = follow(
    file,
    streams.map(({ number }) => number),
  );
  const files = readdirSync(kept).filter((name) => name.endsWith(".said"));
  assert.ok(files.length >= 5, files.join());
  for (const name of files) {
    const [, , port] = name.replace(".said", "").split("-");
    const said = followed.get(streams.find(({ clientPort }) => clientPort === Number(port))?.number ?? -1);
    assert.ok(said, `connection ${name} is not in the capture`);
    const truth = readFileSync(join(kept, name));
    assert.ok(
      said.client.equals(truth),
      `${name}: what the client said: ${said.client.toString("latin1")} and not ${truth.toString("latin1")}`,
    );
    assert.ok(said.server.equals(readFileSync(join(kept, name.replace(".said", ".heard")))), `${name}: what it heard`);
  }
});

test("a capture tells who was refused, by which policy, and names pods", { skip }, async () => {
  mesh.document(
    "90-deny.yaml",
    `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: nobody, namespace: app }
spec: { selector: { matchLabels: { app: neighbour } }, action: DENY, rules: [{}] }
`,
  );
  const [client, neighbour] = [agent("app/client"), mesh.lab.pod("app/neighbour")];
  await until("the policy is in force", async () => (await client.fate(address(neighbour), AGENT)) === "ECONNRESET");
  const capturing = await capture(["app/client"]);
  assert.equal(await client.fate(address(neighbour), AGENT), "ECONNRESET");
  await capturing.stop();
  mesh.document("90-deny.yaml", null);
  const [refused] = streamsOf(capturing.file);
  assert.match(refused?.comment ?? "", /app\/nobody/, JSON.stringify(fields(capturing.file, "tcp", SYN)));
  assert.match(refused?.comment ?? "", /spiffe:\/\/cluster\.local\/ns\/app\/sa\//);
  assert.equal(fields(capturing.file, "tcp.flags.reset==1", ["frame.number"]).length, 1);
  assert.ok(readFileSync(capturing.file).includes("client.app\0"), "a name for the pod's address");
});

test("it ends at its limits, and with its reader", { skip }, async () => {
  const [client, server] = [agent("app/client"), agent("app/server")];
  const limited = await capture(["app/client"], "--bytes", "1000");
  const [near, far] = [await client.connect(address(server.pod), AGENT), await server.accept(AGENT)];
  await near.send(MEBIBYTE, 1);
  assert.equal(await far.check(MEBIBYTE, 1), null, "nothing of it is disturbed");
  await once(limited.child, "close");
  assert.equal(limited.child.exitCode, 0);
  assert.equal(follow(limited.file, [0]).get(0)?.client.length, 1000);
  const timed = await capture(["app/client"], "--for", "1s");
  await once(timed.child, "close");
  assert.equal(timed.child.exitCode, 0);
  const killed = await capture(["app/client"]);
  killed.child.kill("SIGKILL");
  const log = (): string => mesh.lab.tailLogs();
  await until(
    "the daemon has noticed",
    () => /is not recorded any more/.test(log().split("traffic of pods is recorded").at(-1) ?? ""),
    10_000,
    log,
  );
});

/** What one side of a talk says: a word, and a pattern that the other checks. */
const said = (word: string, seed: number): Buffer => Buffer.concat([Buffer.from(word), pattern(seed).slice(0, BULK)]);

function text(size: number): string {
  return Array.from({ length: size }, (_, index) => String.fromCharCode(97 + ((index * 7 + size) % 26))).join("");
}

const nginx = (port: number): string => `daemon off; master_process off; user root; pid ${directory}/nginx.pid; error_log stderr warn;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/fastcgi;
  scgi_temp_path ${directory}/scgi; uwsgi_temp_path ${directory}/uwsgi;
  server { listen ${port}; location /page { alias ${directory}/page; } }
}
`;
