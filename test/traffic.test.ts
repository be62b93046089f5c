// What applications may expect of their connections through the mesh, on every path: bytes, ends, addresses, errors and what the wire shows.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { paths, ports } from "#contract/tables.ts";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import { canCapture } from "../src/lab/capture.ts";
import { get } from "../src/lab/mesh.ts";
import { holds, notTls, tcpStreams } from "../src/lab/pcap.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, SERVICE, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { hello } from "./programs/hello.ts";
import { type Agent, type RemoteSocket, startAgent } from "./programs/remote.ts";

const PORT = 9100;
const CLOSED_PORT = 9;
const MEGABYTE = 1_000_000;
/** Prompt for a person and far below any time-out, yet fair to a busy machine of two cores. */
const PROMPT_MS = 1000;
/** Any wait for what the client might say first takes longer. */
const GREETING_MS = 100;
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];

/** Every path that bytes of a meshed pod take: name, source, destination. */
const PATHS = [
  ["tunnel", "app/client", "app/server"],
  ["relay", "app/client", "app/neighbour"],
  ["plain", "app/client", "legacy/outsider"],
  ["plain inbound", "legacy/outsider", "app/server"],
] as const;
type PathName = (typeof PATHS)[number][0];

let mesh: TestMesh;
const agents = new Map<string, Agent>();

before(async () => {
  mesh = await startTestMesh();
  await Promise.all(["app/client", "app/server", "app/neighbour", "legacy/outsider"].map(begin));
});
after(() => mesh?.stop());

async function begin(pod: string): Promise<Agent> {
  const started = await startAgent(mesh.lab.pod(pod));
  agents.set(pod, started);
  await started.listen(PORT);
  return started;
}

function agent(pod: string): Agent {
  const found = agents.get(pod);
  if (found === undefined) throw new Error(`no agent in ${pod}`);
  return found;
}

type Pair = { readonly what: string; readonly client: RemoteSocket; readonly server: RemoteSocket };

async function open(from: string, to: string, family: Family): Promise<Pair> {
  const [source, destination] = [agent(from), agent(to)];
  const client = await source.connect(address(destination.pod, family), PORT);
  return { what: `${from} to ${to} over IPv${family}`, client, server: await destination.accept(PORT) };
}

/** The claim on every path in both families, all at once. */
async function everywhere(claim: (pair: Pair, path: PathName, family: Family) => Promise<void>): Promise<void> {
  for (const family of FAMILIES)
    for (const [name, from, to] of PATHS) {
      const pair = await open(from, to, family);
      await claim({ ...pair, what: `${name} IPv${family}` }, name, family);
    }
}

async function flows(node: string): Promise<FlowRecord[]> {
  const socketPath = join(mesh.lab.node(node).runDirectory, paths.adminSocket);
  const lines = (await get({ socketPath }, "/v1/flows")).trim().split("\n");
  return lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
}

/** The closed record of a connection that the node's engine kept. */
function flow(node: string, what: string, is: (flow: FlowRecord) => boolean): Promise<FlowRecord> {
  return until(`a flow record on ${node}: ${what}`, async () => (await flows(node)).findLast((one) => one.phase === "closed" && is(one)));
}

const now = (): number => Date.now();
const since = (started: number, { start }: FlowRecord): boolean => Date.parse(start) >= started;

test("between nodes there is nothing but TLS 1.3 on 15008: no application byte, no server name", {
  skip: canCapture() ? false : "tcpdump needs root",
}, async () => {
  const marker = `trackbed-${randomUUID()}`;
  const wire = await mesh.lab.captureWire("node-a");
  const inside = await mesh.lab.capturePod("app/server");
  for (const family of FAMILIES) {
    const { client, server } = await open("app/client", "app/server", family);
    await client.write(marker);
    await server.read(marker.length);
    await server.write(marker);
    await client.read(marker.length);
  }
  await Promise.all([wire.stop(), inside.stop()]);
  assert.ok(holds(readFileSync(inside.file), marker), "the search itself: inside the pod the marker is seen");
  const capture = readFileSync(wire.file);
  assert.ok(!holds(capture, marker), "the marker was on the wire");
  const pods = new Set(mesh.lab.pods.flatMap(({ ips }) => ips));
  const streams = tcpStreams(capture).filter(({ source, destination }) => pods.has(source) && pods.has(destination));
  assert.ok(streams.length >= 2 * FAMILIES.length, `${streams.length} streams between pods`);
  for (const stream of streams) {
    const from = stream.sourcePort === ports.hbone ? "server" : "client";
    const what = `${stream.source} ${stream.sourcePort} to ${stream.destination} ${stream.destinationPort}`;
    assert.ok([stream.sourcePort, stream.destinationPort].includes(ports.hbone), what);
    assert.equal(notTls(stream), null, what);
    const said = hello(stream.bytes);
    assert.deepEqual({ from: said.from, serverName: said.serverName }, { from, serverName: false }, what);
    if (from === "server") assert.equal(said.version, "0304", `${what}: TLS 1.3`);
  }
});

test("the end of one side leaves the other direction open, whichever side ends first", async () => {
  await everywhere(async ({ what, client, server }) => {
    await client.write("question");
    await client.finish();
    assert.deepEqual(await server.read(), { text: "question", bytes: 8, end: "fin" }, what);
    await server.send(MEGABYTE, 1);
    await server.finish();
    assert.equal(await client.check(MEGABYTE, 1), null, what);
    assert.deepEqual(await client.read(), { text: "", bytes: 0, end: "fin" }, what);
  });
  await everywhere(async ({ what, client, server }) => {
    await server.write("greeting");
    await server.finish();
    assert.deepEqual(await client.read(), { text: "greeting", bytes: 8, end: "fin" }, what);
    await client.send(MEGABYTE, 2);
    await client.finish();
    assert.equal(await server.check(MEGABYTE, 2), null, what);
    assert.deepEqual(await server.read(), { text: "", bytes: 0, end: "fin" }, what);
  });
});

test("a reset of either side reaches the other as a reset, behind the data that was sent before it", async () => {
  await everywhere(async ({ what, client, server }) => {
    await client.write("last words");
    await client.reset();
    assert.deepEqual(await server.read(), { text: "last words", bytes: 10, end: "ECONNRESET" }, `client of ${what}`);
  });
  await everywhere(async ({ what, client, server }) => {
    await server.write("last words");
    await server.reset();
    assert.deepEqual(await client.read(), { text: "last words", bytes: 10, end: "ECONNRESET" }, `server of ${what}`);
  });
});

test("a reset after the other side has finished is still a reset", async () => {
  await everywhere(async ({ what, client, server }) => {
    await server.finish();
    assert.equal((await client.read()).end, "fin", what);
    await client.reset();
    assert.equal((await server.read()).end, "ECONNRESET", what);
  });
});

test("the application sees its client's own address", async () => {
  await everywhere(async ({ what, client, server }) => {
    assert.equal(server.address, client.address, what);
  });
});

test("bulk transfers both ways at once arrive byte for byte, on every path at the same time", async () => {
  const pairs = [];
  for (const [index, [name, from, to]] of PATHS.entries()) pairs.push({ name, ...(await open(from, to, index % 2 === 0 ? 4 : 6)) });
  await Promise.all(
    pairs.map(async ({ name, client, server }) => {
      const bytes = (name === "tunnel" ? 50 : 10) * MEGABYTE + 7;
      const [, , atServer, atClient] = await Promise.all([
        client.send(bytes, 3),
        server.send(bytes, 4),
        server.check(bytes, 3),
        client.check(bytes, 4),
      ]);
      assert.deepEqual([atServer, atClient], [null, null], `${name}: first wrong byte at server and client`);
    }),
  );
});

test("readers that take nothing stall no neighbour of theirs between the same pods", async () => {
  const UNREAD = 4;
  for (const [name, from, to] of PATHS) {
    const stalled: Pair[] = [];
    for (let one = 0; one < UNREAD; one++) stalled.push(await open(from, to, 4));
    await Promise.all(stalled.map(({ client }) => client.pause()));
    const sent = stalled.map(({ server }) => server.send(30 * MEGABYTE, 5));
    const { client, server } = await open(from, to, 4);
    const started = performance.now();
    for (let turn = 0; turn < 20; turn++) {
      await client.write("ping");
      assert.equal((await server.read(4)).text, "ping", name);
      await server.write("pong");
      assert.equal((await client.read(4)).text, "pong", name);
    }
    assert.ok(performance.now() - started < PROMPT_MS, `${name}: 20 turns took ${performance.now() - started} ms`);
    await Promise.all(stalled.map(({ client: slow }) => slow.resume()));
    const wrong = await Promise.all(stalled.map(({ client: slow }) => slow.check(30 * MEGABYTE, 5)));
    assert.deepEqual(wrong, Array(UNREAD).fill(null), `${name}: what the slow readers got in the end`);
    await Promise.all(sent);
  }
});

test("a server that speaks first is heard at once", async () => {
  for (const [name, from, to] of PATHS) {
    let best = Number.POSITIVE_INFINITY;
    for (let turn = 0; turn < 5; turn++) {
      const started = performance.now();
      const { client, server } = await open(from, to, 4);
      await server.write("220 ready");
      assert.equal((await client.read(9)).text, "220 ready", name);
      best = Math.min(best, performance.now() - started);
    }
    assert.ok(best < GREETING_MS, `${name}: ${best.toFixed(1)} ms`);
  }
});

test("a closed port is refused promptly and the flow says that the application did", async () => {
  for (const family of FAMILIES)
    for (const [name, from, to] of PATHS) {
      const [started, clock] = [now(), performance.now()];
      const target = address(mesh.lab.pod(to), family);
      const fate = await agent(from).fate(target, CLOSED_PORT);
      assert.ok(["ECONNREFUSED", "ECONNRESET"].includes(fate), `${name}: ${fate}`);
      assert.ok(performance.now() - clock < PROMPT_MS, `${name}: ${performance.now() - clock} ms`);
      const node = name === "plain" ? "node-a" : mesh.lab.pod(to).node;
      const record = await flow(node, `${name} to ${target} port ${CLOSED_PORT}`, (one) => {
        return since(started, one) && one.code === "E_UPSTREAM_REFUSED" && one.destination.address === target;
      });
      assert.equal(record.verdict, "failed", name);
      assert.equal(record.destination.port, CLOSED_PORT, name);
    }
});

const EMPTY = "10.96.99.40";

test("a port that a service does not have, and a service without endpoints, are reset promptly with their codes", async () => {
  mesh.document(
    "empty.yaml",
    `apiVersion: v1
kind: Service
metadata: { name: empty, namespace: app }
spec: { clusterIPs: ["${EMPTY}", "fd96:99::40"], selector: { app: nobody }, ports: [{ name: tcp, port: 80, targetPort: ${PORT} }] }
`,
  );
  const vips = [
    ["10.96.99.10", 81, "E_SERVICE_NO_PORT"],
    ["fd96:99::10", 81, "E_SERVICE_NO_PORT"],
    [EMPTY, 80, "E_SERVICE_NO_ENDPOINT"],
    ["fd96:99::40", 80, "E_SERVICE_NO_ENDPOINT"],
  ] as const;
  const client = agent("app/client");
  for (const [vip, port, code] of vips) {
    const record = await until(`${vip} port ${port} ends with ${code}`, async () => {
      const [started, clock] = [now(), performance.now()];
      const fate = await client.fate(vip, port);
      const last = await flow("node-a", `${vip} port ${port}`, (one) => since(started, one) && one.destination.address === vip);
      if (last.code !== code) throw new Error(`${last.code}: ${last.reason}`); // the document has not arrived yet
      assert.equal(fate, "ECONNRESET", vip);
      assert.ok(performance.now() - clock < PROMPT_MS + PROMPT_MS, vip);
      return last;
    });
    assert.equal(record.destination.port, port);
  }
});

test("flows tell both ends' identities, the path and the bytes, on the node of each side", async () => {
  const identity = (name: string): string => `spiffe://cluster.local/ns/app/sa/${name}`;
  const cases: Record<
    PathName,
    { from: string; to: string; proven: boolean; path: string; outbound: string | null; inbound: string | null }
  > = {
    tunnel: { from: "client", to: "server", proven: true, path: "tunnel", outbound: "node-a", inbound: "node-b" },
    relay: { from: "client", to: "neighbour", proven: true, path: "relay", outbound: "node-a", inbound: "node-a" },
    plain: { from: "client", to: "outsider", proven: false, path: "plain", outbound: "node-a", inbound: null },
    "plain inbound": { from: "outsider", to: "server", proven: false, path: "plain", outbound: null, inbound: "node-b" },
  };
  let started = now();
  await everywhere(async ({ what, client, server }, name, family) => {
    await client.write("12345");
    await server.read(5);
    await server.write("123");
    await client.read(3);
    await client.finish();
    await server.finish();
    const { from, to, proven, path, ...nodes } = cases[name];
    const target = address(mesh.lab.pod(to), family);
    for (const direction of ["outbound", "inbound"] as const) {
      const node = nodes[direction];
      if (node === null) continue;
      // A tunnel has a source port of its own: there the time tells which record it is.
      const record = await flow(node, `${what} ${direction}`, (one) => {
        const mine = one.source.address === client.address && (one.source.port === client.port || one.path === "tunnel");
        return one.direction === direction && mine && since(started, one);
      });
      const { source, destination } = record;
      assert.deepEqual([source.pod, destination.pod], [from, to], what);
      assert.equal(source.identity, proven || (from === "client" && direction === "outbound") ? identity(from) : null, what);
      assert.equal(destination.identity, proven ? identity(to) : null, what);
      assert.deepEqual([destination.address, destination.port], [target, PORT], what);
      assert.deepEqual([record.path, record.verdict, record.code, record.reset], [path, "allowed", null, false], what);
      assert.deepEqual([record.bytesSent, record.bytesReceived], [5, 3], what);
      if (path === "tunnel") assert.equal(record.tls?.version, "TLSv1.3", what);
      else assert.equal(record.tls, null, what);
    }
    started = now();
  });
});

const RETRY = "10.96.99.30";
const RETRY_V6 = "fd96:99::30";

test("a connection is tried on another endpoint before its first byte, over relay and tunnel alike", async () => {
  // The closed ones are on the client's node (relay) and on the other (tunnel); only `open` listens.
  const pods = [
    ["shut-near", "node-a", "10.99.1.31", "fd99:1::31"],
    ["shut-far", "node-b", "10.99.2.31", "fd99:2::31"],
    ["open", "node-b", "10.99.2.30", "fd99:2::30"],
  ] as const;
  const documents = pods.map(
    ([name, node, v4, v6]) => `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: app, labels: { group: retry }, annotations: { trackbed.dev/netns: /run/netns/app-${name} } }
spec: { nodeName: ${node}, serviceAccountName: ${name}, containers: [] }
status: { phase: Running, podIPs: [{ ip: ${v4} }, { ip: "${v6}" }] }
`,
  );
  const service = `apiVersion: v1
kind: Service
metadata: { name: retry, namespace: app }
spec: { clusterIPs: ["${RETRY}", "${RETRY_V6}"], selector: { group: retry }, ports: [{ name: tcp, port: 80, targetPort: ${PORT} }] }
`;
  mesh.document("retry.yaml", [...documents, service].join("---\n"));
  await mesh.lab.reconcile();
  const server = await begin("app/open");
  const [started, client] = [now(), agent("app/client")];
  const refusedBy = async (): Promise<Set<string | null>> => {
    const records = (await Promise.all(["node-a", "node-b"].map(flows))).flat();
    const refused = records.filter((one) => since(started, one) && one.direction === "inbound" && one.code === "E_UPSTREAM_REFUSED");
    return new Set(refused.map(({ destination }) => destination.pod));
  };
  // One at a time, kept when the connection is refused: a second one would take the next connection away from it.
  let accepting = server.accept(PORT);
  /** One connection: "served" with bytes both ways, or the code with which the client's flow ended. */
  const attempt = async (vip: string): Promise<string> => {
    const opened = await client.connect(vip, 80);
    await opened.write("hello");
    const answered = opened.read(7);
    const refused = answered.then(async ({ end }) => {
      if (end === "open") return "answered";
      const record = await flow("node-a", `port ${opened.port}`, (one) => one.direction === "outbound" && one.source.port === opened.port);
      return `${record.code}: ${record.reason}`;
    });
    const accepted = await Promise.race([accepting, refused]);
    if (typeof accepted === "string") return accepted;
    accepting = server.accept(PORT);
    accepting.catch(() => undefined); // the last one waits for nobody
    assert.equal((await accepted.read(5)).text, "hello");
    await accepted.write("welcome");
    assert.equal((await answered).text, "welcome");
    await opened.finish();
    await accepted.finish();
    return "served";
  };
  await until("the nodes know the new pods", async () => {
    const known = (await Promise.all(["node-a", "node-b"].map((node) => mesh.lab.status(node)))).flatMap((status) => status.pods);
    return pods.every(([name]) => known.some((pod) => pod.namespace === "app" && pod.name === name));
  });
  await mesh.lab.ready();
  await until("the mesh serves the new service", async () => {
    const outcome = await attempt(RETRY);
    if (outcome !== "served") throw new Error(outcome);
    return true;
  });
  await until("both closed endpoints were tried", async () => {
    for (const vip of [RETRY, RETRY_V6]) assert.equal(await attempt(vip), "served", vip);
    const seen = await refusedBy();
    return seen.has("shut-near") && seen.has("shut-far");
  });
});

test("one source port serves two targets, and 60 connections in a row and at once all get through", async () => {
  const client = agent("app/client");
  const LOCAL_PORT = 45_678;
  const targets = ["app/server", "app/neighbour", "legacy/outsider"].map(agent);
  const pairs: [RemoteSocket, RemoteSocket][] = [];
  for (const target of targets) {
    const opened = await client.connect(address(target.pod), PORT, LOCAL_PORT);
    assert.equal(opened.port, LOCAL_PORT);
    pairs.push([opened, await target.accept(PORT)]);
  }
  for (const [index, [opened, accepted]] of pairs.entries()) {
    await opened.write(`to ${index}`);
    assert.equal((await accepted.read(4)).text, `to ${index}`);
  }
  const RAPID = 60;
  for (const target of targets) {
    for (let turn = 0; turn < RAPID; turn++) {
      const opened = await client.connect(address(target.pod), PORT);
      const accepted = await target.accept(PORT);
      await opened.finish();
      assert.equal((await accepted.read()).end, "fin");
      await accepted.finish();
    }
    const burst = await Promise.all(Array.from({ length: RAPID }, () => client.connect(address(target.pod), PORT)));
    const greeted = Array.from({ length: RAPID }, async () => (await target.accept(PORT)).write("hi"));
    await Promise.all(greeted);
    assert.equal((await Promise.all(burst.map((one) => one.read(2)))).filter(({ text }) => text === "hi").length, RAPID);
    await Promise.all(burst.map((one) => one.reset()));
  }
});

test("a thousand connections opened and closed leave no descriptor behind in any engine worker", async () => {
  const workers = ["node-a", "node-b"].flatMap((node) => mesh.lab.node(node).pidsOf("worker"));
  assert.equal(workers.length, 2);
  const open = (): number[] => workers.map((pid) => readdirSync(`/proc/${pid}/fd`).length);
  const client = mesh.lab.pod("app/client");
  const targets = [
    SERVICE,
    ...["app/server", "app/neighbour", "legacy/outsider"].map((name) => `${address(mesh.lab.pod(name))}:${SERVER_PORT}`),
  ];
  for (const target of targets) assert.ok((await tryConnect(client, target)).ok);
  const before = open();
  const held = await Promise.all(targets.map((target) => hold(client, target, 1000 / targets.length)));
  const during = open();
  assert.ok(
    during.every((count, index) => count >= (before[index] ?? 0) + 250),
    `the count itself: ${before} and ${during}`,
  );
  for (const one of held) one.close();
  // Those of earlier tests may end meanwhile: fewer is fine, one more is not, but for tunnels that stay pooled.
  const TUNNELS = 16;
  await until(
    "descriptors are closed again",
    () => open().every((count, index) => count <= (before[index] ?? 0) + TUNNELS),
    10_000,
    () => `before ${before}, during ${during}, now ${open()}`,
  );
});
