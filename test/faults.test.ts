// Faults under 200 live connections: which of the mesh's processes may die without anybody noticing, and what happens when the others do.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Lab } from "../src/lab/api.ts";
import { countQueued } from "../src/lab/queued.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, SERVICE, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import type { Knock } from "./programs/knock.ts";
import { watchWire } from "./wire.ts";

const LIVE = 200;
/** Connections accepted by the dead worker wait for its successor: the claim of the design. */
const WORKER_BACK_MS = 300;
const KEEPER_BACK_MS = 2000;
/** New connections opened at once, right after the worker was killed. */
const KNOCKS = 10;
const KNOCK = fileURLToPath(new URL("programs/knock.ts", import.meta.url));
let mesh: TestMesh;

before(async () => {
  mesh = await startTestMesh();
});
after(() => mesh.stop());

test("killing both daemons breaks none of 200 live connections and new ones are served", async () => {
  const { lab } = mesh;
  const held = await hold(lab.pod("app/client"), SERVICE, LIVE);
  for (const node of ["node-a", "node-b"]) lab.node(node).kill("daemon");
  const during = await tryConnect(lab.pod("app/client"), SERVICE);
  assert.ok(during.ok, during.error);
  assert.equal(await held.alive(), LIVE);
  await lab.ready();
  assert.equal(await held.alive(), LIVE);
  held.close();
});

test("without control live and new connections go on, and a restarted daemon works from its snapshot", async () => {
  const { lab } = mesh;
  const held = await hold(lab.pod("app/client"), SERVICE, LIVE);
  await lab.stopControl("SIGKILL");
  lab.node("node-a").kill("daemon");
  await lab.ready();
  const during = await tryConnect(lab.pod("app/client"), SERVICE);
  assert.ok(during.ok, during.error);
  assert.equal(await held.alive(), LIVE);
  await lab.startControl();
  assert.equal(await held.alive(), LIVE);
  held.close();
});

test("the witness of the wire sees a plain connection", async () => {
  const { lab } = mesh;
  const seen = await watchWire(lab.node("node-a"), SERVER_PORT);
  assert.ok((await tryConnect(lab.pod("legacy/outsider"), `${address(lab.pod("app/server"))}:${SERVER_PORT}`)).ok);
  assert.ok((await seen()) > 0);
});

test("a killed engine worker refuses no new connection, serves it within 0.3 s and leaks nothing in plaintext", async () => {
  const { lab } = mesh;
  const client = lab.pod("app/client");
  const held = await hold(client, SERVICE, LIVE);
  const leaked = await watchWire(lab.node("node-a"), SERVER_PORT);
  const [host = "", port = ""] = SERVICE.split(":");
  const knocker = client.spawn([process.execPath, KNOCK, host, port, String(KNOCKS)]);
  if (knocker.stdout === null || knocker.stdin === null) throw new Error("the knocker has no pipes");
  const lines: string[] = [];
  createInterface(knocker.stdout).on("line", (line) => lines.push(line));
  await until("the knocker is ready", () => lines.shift());
  const queued = countQueued(() => [knocker.pid ?? 0, ...enginesOf(lab)]);
  lab.node("node-a").kill("worker");
  knocker.stdin.write("\n");
  const knocks = JSON.parse(await until("every knock is answered", () => lines.shift(), 15_000)) as Knock[];
  const busy = queued();
  knocker.stdin.end();
  assert.equal(knocks.length, KNOCKS);
  assert.deepEqual(
    knocks.filter(({ error }) => error !== null),
    [],
  );
  const slowest = Math.max(...knocks.map(({ ms }) => ms));
  assert.ok(slowest < WORKER_BACK_MS + busy, `the slowest took ${slowest.toFixed(0)} ms, the machine ${busy.toFixed(0)} ms of it`);
  assert.equal(await held.alive(), 0, "connections of the dead worker cannot have survived");
  held.close();
  await lab.ready();
  assert.equal(await leaked(), 0, "the application's port must never be seen between the nodes");
});

test("a killed keeper stops traffic without bypass and is back within 2 s", async () => {
  const { lab } = mesh;
  const client = lab.pod("app/client");
  const leaked = await watchWire(lab.node("node-a"), SERVER_PORT);
  const target = `${address(lab.pod("app/server"))}:${SERVER_PORT}`;
  assert.ok((await tryConnect(client, target)).ok);
  const queued = countQueued(() => [...lab.node("node-a").pidsOf("launcher"), ...enginesOf(lab)]);
  const killed = performance.now();
  lab.node("node-a").kill("engine");
  // Every attempt, from the very first: refused or served through the mesh, never around it.
  await until("connections are served again", async () => (await tryConnect(client, target)).ok);
  const back = performance.now() - killed;
  const busy = queued();
  assert.ok(back < KEEPER_BACK_MS + busy, `it took ${back.toFixed(0)} ms, the machine ${busy.toFixed(0)} ms of it`);
  assert.equal(await leaked(), 0, "the application's port must never be seen between the nodes");
  await lab.ready();
});

test("a namespace whose engine is stopped lets nothing pass", async () => {
  const { lab } = mesh;
  const leaked = await watchWire(lab.node("node-a"), SERVER_PORT);
  lab.node("node-a").kill("launcher", "SIGSTOP");
  try {
    lab.node("node-a").kill("engine");
    await until("keeper and worker are gone", () => lab.node("node-a").pidsOf("worker").length === 0);
    const refused = await tryConnect(lab.pod("app/client"), `${address(lab.pod("app/server"))}:${SERVER_PORT}`);
    assert.ok(!refused.ok, "a captured pod got through without its engine");
  } finally {
    lab.node("node-a").kill("launcher", "SIGCONT");
  }
  await lab.ready();
  assert.equal(await leaked(), 0);
});

/** Keepers and workers of both nodes. */
const enginesOf = (lab: Lab): number[] =>
  ["node-a", "node-b"].flatMap((name) => (["engine", "worker"] as const).flatMap((role) => lab.node(name).pidsOf(role)));
