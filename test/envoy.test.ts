// Envoy as the other end of a tunnel, in both roles: each byte that goes there and comes back is looked at.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { LocalAuthority } from "#ca/local.ts";
import type { PodPlace } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import { client, server } from "./envoy/config.ts";
import { credentials, meshAuthority } from "./hbone/credentials.ts";
import { address, SERVER_PORT, serve, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { flows } from "./policy/documents.ts";

const ENVOY = fileURLToPath(new URL("../.cache/envoy/envoy", import.meta.url));
const PATTERN = fileURLToPath(new URL("hbone/pattern.ts", import.meta.url));
const skip = existsSync(ENVOY) ? false : "Envoy is not there: make envoy";
const HBONE = 15008;
/** Where Envoy takes connections that it tunnels. */
const CAPTURED = 9700;
const CONNECTIONS = 16;
const BYTES = 2_000_000;
const identity = (account: string): string => `spiffe://cluster.local/ns/app/sa/${account}`;

let mesh: TestMesh;
let authority: LocalAuthority;
let directory: string;

before(async () => {
  if (skip !== false) return;
  mesh = await startTestMesh();
  authority = meshAuthority(mesh.lab);
  directory = mkdtempSync(join(tmpdir(), "trackbed-envoy-"));
});
after(async () => {
  if (skip !== false) return;
  await mesh.stop();
  rmSync(directory, { recursive: true });
});

/** Envoy in a pod, until the lab ends; its last words are told when `to` does not take a connection. */
async function envoy(pod: PodPlace, config: object, name: string, ready: () => Promise<boolean>): Promise<void> {
  const file = join(directory, `${name}.json`);
  writeFileSync(file, JSON.stringify(config));
  const child = pod.spawn([ENVOY, "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text) => {
    said = (said + String(text)).slice(-4000);
  });
  await until(`Envoy as ${name} serves`, ready, 30_000, () => said);
}

async function echoes(pod: PodPlace, host: string, port: number, connections: number, bytes: number): Promise<void> {
  const words = [process.execPath, PATTERN, host, port, connections, bytes].map(String);
  assert.equal(Number(await pod.run(words, { timeoutMs: 120_000 })), connections * bytes);
}

test("Envoy's tunnels to a pod of ours carry every byte both ways", { skip }, async () => {
  const pod = mesh.lab.pod("app/peer");
  const host = address(mesh.lab.pod("app/server"));
  const peer = { host, port: HBONE, identity: identity("server") };
  const config = client(await credentials(authority, authority, "peer"), CAPTURED, peer, `${host}:${SERVER_PORT}`);
  const since = Date.now();
  await envoy(pod, config, "client", async () => (await tryConnect(pod, `127.0.0.1:${CAPTURED}`)).ok);
  await echoes(pod, "127.0.0.1", CAPTURED, 1, BYTES * 8);
  await echoes(pod, "127.0.0.1", CAPTURED, CONNECTIONS, BYTES);
  const flow = await until("the flow names Envoy's certificate", async () =>
    (await flows(mesh.lab, "node-b", since)).find(({ phase, direction }) => phase === "closed" && direction === "inbound"),
  );
  assert.match(JSON.stringify(flow), /sa\/peer/);
});

test("our tunnels to an Envoy carry every byte both ways", { skip }, async () => {
  const foreign = mesh.lab.pod("app/foreign");
  const pod = mesh.lab.pod("app/client");
  const own = await credentials(authority, authority, "foreign");
  await serve(foreign);
  const config = server(own, HBONE, identity("client"), { host: "127.0.0.1", port: SERVER_PORT });
  const target = `${address(foreign)}:${SERVER_PORT}`;
  await envoy(foreign, config, "server", async () => (await tryConnect(pod, target)).ok);
  const since = Date.now();
  await echoes(pod, address(foreign), SERVER_PORT, 1, BYTES * 8);
  await echoes(pod, address(foreign), SERVER_PORT, CONNECTIONS, BYTES);
  await echoes(pod, address(foreign, 6), SERVER_PORT, CONNECTIONS, BYTES);
  const flow = await until("the flow names Envoy's identity", async () =>
    (await flows(mesh.lab, "node-a", since)).find(({ phase, direction }) => phase === "closed" && direction === "outbound"),
  );
  assert.match(JSON.stringify(flow), /sa\/foreign/);
});
