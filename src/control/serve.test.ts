import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { openAuthority } from "#ca/local.ts";
import { AggregatedDiscoveryService } from "#contract/gen/envoy/discovery_pb.ts";
import { controlChannel } from "#xds/channel.ts";
import { type Connectivity, xdsClient } from "#xds/client.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type Rejection, type XdsDelta } from "#xds/resource.ts";
import { createXdsServer } from "#xds/server.ts";
import { createStore } from "#xds/store.ts";
import { callerNode, createAccess } from "./access.ts";
import { listen } from "./listener.ts";

const DEADLINE_MILLISECONDS = 10_000;

/** Waits until `condition` holds; fails naming what never came. */
async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + DEADLINE_MILLISECONDS; !condition(); ) {
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function serve(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "serve-"));
  const authority = openAuthority(join(dir, "state"));
  const store = createStore();
  const nacks: string[] = [];
  const cuts: string[] = [];
  const xds = createXdsServer(store, { authenticate: callerNode, onNack: (node, _type, reasons) => nacks.push(`${node} ${reasons}`) });
  const access = createAccess(
    {
      nodeOf: async (token) => {
        if (token === "unlucky-token") throw new Error("nobody can say");
        return token === "good-token" ? "node-a" : null;
      },
      waypointOf: async (token) => (token === "waypoint-token" ? "uid-w" : null),
    },
    (_address, reason) => cuts.push(reason),
  );
  const adapter = connectNodeAdapter({
    routes: (router) => router.service(AggregatedDiscoveryService, xds.service),
    contextValues: access.contextValues,
    readMaxBytes: 4 << 20,
  });
  const start = (port: number) => {
    const credentials = authority.serverCertificate({ names: [], addresses: ["127.0.0.1"] });
    const endpoints = [{ host: "127.0.0.1", port }];
    return listen({
      endpoints,
      credentials,
      handler: access.guard(adapter),
      onCut: (_address, reason) => cuts.push(reason),
      firstCallMilliseconds: 500,
    });
  };
  let listener = await start(0);
  const address = listener.addresses[0] ?? "";
  const root = join(dir, "root-cert.pem");
  const token = join(dir, "token");
  writeFileSync(root, authority.roots());
  writeFileSync(token, "good-token\n");
  const stop = new AbortController();
  t.after(async () => {
    stop.abort();
    xds.close();
    await listener.drain(100);
    rmSync(dir, { recursive: true });
  });

  function follow(onDelta: (delta: XdsDelta) => readonly Rejection[] = () => [], control = `https://${address}`) {
    const held = new Map<string, string>();
    const changes: Connectivity[] = [];
    const deltas: XdsDelta[] = [];
    const keepalive = { intervalMilliseconds: 200, timeoutMilliseconds: 200 };
    const channel = controlChannel({ control, root, token, keepalive });
    const client = xdsClient({
      channel,
      node: { id: "daemon~node-a", metadata: { NODE_NAME: "node-a" } },
      held: new Map(),
      onDelta: async (delta) => {
        deltas.push(delta);
        for (const { name, version } of delta.upsert) held.set(name, version);
        for (const name of delta.remove) held.delete(name);
        return onDelta(delta);
      },
      onConnectivity: (connectivity) => changes.push(connectivity),
    });
    const running = client.run(stop.signal);
    t.after(() => running);
    return { client, channel, held, deltas, changes };
  }

  async function restart(): Promise<void> {
    xds.close();
    await listener.drain(1000);
    listener = await start(Number(address.split(":")[1]));
  }

  return { dir, root, token, store, xds, nacks, cuts, address, follow, restart, listener: () => listener };
}

const resource = (name: string, version: string, size = 8) => ({ name, version, aliases: [], body: Buffer.alloc(size, version) });

test("a daemon gets everything, then each change, and is synced when nothing is missing", async (t) => {
  const server = await serve(t);
  server.store.update(ADDRESS_TYPE, [resource("a", "1"), resource("b", "1")], []);
  server.store.update(AUTHORIZATION_TYPE, [resource("p", "1")], []);
  const { client, held, changes } = server.follow();
  await until("synced", () => client.connectivity().synced);
  assert.deepEqual([...held.keys()].sort(), ["a", "b", "p"]);
  server.store.update(ADDRESS_TYPE, [resource("a", "2")], ["b"]);
  await until("the change", () => held.get("a") === "2" && !held.has("b"));
  assert.equal(client.connectivity().error, null);
  assert.ok(changes.some(({ connected }) => connected));
});

test("after control restarted the daemon is back by itself and gets only the difference", async (t) => {
  const server = await serve(t);
  server.store.update(ADDRESS_TYPE, [resource("a", "1"), resource("b", "1"), resource("gone", "1")], []);
  const { client, held, deltas } = server.follow();
  await until("synced", () => client.connectivity().synced);
  await server.restart();
  await until("disconnection was noticed", () => deltas.length > 2 || !client.connectivity().connected);
  server.store.update(ADDRESS_TYPE, [resource("b", "2")], ["gone"]);
  await until("the difference", () => held.get("b") === "2" && !held.has("gone"));
  await until("synced again", () => client.connectivity().synced);
  const upserts = deltas.flatMap(({ upsert }) => upsert.map(({ name, version }) => `${name}@${version}`));
  assert.deepEqual(upserts.sort(), ["a@1", "b@1", "b@2", "gone@1"]);
});

test("a control that ends waits for no caller whose half of a call stays open", async (t) => {
  const server = await serve(t);
  const { client } = server.follow();
  await until("synced", () => client.connectivity().synced);
  server.xds.close();
  assert.equal(await server.listener().drain(DEADLINE_MILLISECONDS), 0, "the connection had to be cut");
});

test("a refused resource reaches control with its reason, and the rest is in force", async (t) => {
  const server = await serve(t);
  server.store.update(AUTHORIZATION_TYPE, [resource("bad", "1"), resource("good", "1")], []);
  const refuse = ({ upsert }: XdsDelta) =>
    upsert.filter(({ name }) => name === "bad").map(({ name }) => ({ name, code: "E_POLICY_INVALID" as const, reason: "cannot be read" }));
  server.follow(refuse);
  await until("the NACK", () => server.nacks.length > 0);
  assert.deepEqual(server.nacks, ["node-a bad: cannot be read"]);
});

test("a wrong token is refused, and a corrected token file is used without a restart", async (t) => {
  const server = await serve(t);
  writeFileSync(server.token, "wrong");
  const { client } = server.follow();
  await until("the refusal", () => client.connectivity().error?.code === "E_CONTROL_UNAUTHENTICATED");
  assert.deepEqual([...new Set(server.cuts)], ["unknown token"]);
  writeFileSync(server.token, "good-token");
  await until("synced", () => client.connectivity().synced);
});

test("while nobody can say whose token it is, the caller is told to come back, not that it is a stranger", async (t) => {
  const server = await serve(t);
  writeFileSync(server.token, "unlucky-token");
  const { client } = server.follow();
  await until("the answer", () => client.connectivity().error !== null);
  assert.equal(client.connectivity().error?.code, "E_CONTROL_AWAY");
  assert.match(server.cuts[0] ?? "", /nobody can say/);
  writeFileSync(server.token, "good-token");
  await until("synced", () => client.connectivity().synced);
});

test("control with a certificate of another root is not believed until the root file names that root", async (t) => {
  const server = await serve(t);
  const other = openAuthority(join(server.dir, "other"));
  writeFileSync(server.root, other.roots());
  const { client } = server.follow();
  await until("the refusal", () => client.connectivity().error !== null);
  assert.equal(client.connectivity().connected, false);
  assert.match(client.connectivity().error?.message ?? "", /is not trusted; .*root-cert\.pem must be that control's/);
  assert.equal(server.listener().sessions(), 0);
  writeFileSync(server.root, openAuthority(join(server.dir, "state")).roots());
  await until("synced", () => client.connectivity().synced);
});

test("a control that falls silent is noticed by its unanswered PING, and a new connection takes its place", async (t) => {
  const server = await serve(t);
  // A wire that can stop carrying bytes without closing.
  const port = Number(server.address.split(":")[1]);
  const ends: Socket[] = [];
  const wire = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    near.pipe(far).pipe(near);
    for (const end of [near, far]) {
      end.on("error", () => end.destroy());
      ends.push(end);
    }
  });
  await new Promise<void>((resolve) => wire.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const end of ends) end.destroy();
    wire.close();
  });
  const { client, changes } = server.follow(undefined, `https://127.0.0.1:${(wire.address() as AddressInfo).port}`);
  await until("synced", () => client.connectivity().synced);
  for (const end of ends) {
    end.unpipe();
    end.pause();
  }
  await until("the silence is noticed", () => changes.some(({ error }) => error !== null));
  await until("a new connection is in its place", () => client.connectivity().synced);
});

test("a reader that stands still costs control no more than names, and then gets the newest versions", async (t) => {
  const server = await serve(t);
  server.store.update(ADDRESS_TYPE, [resource("a", "1")], []);
  const gate = Promise.withResolvers<void>();
  const seen: string[] = [];
  const channel = controlChannel({ control: `https://${server.address}`, root: server.root, token: server.token });
  const stop = new AbortController();
  const client = xdsClient({
    channel,
    node: { id: "slow", metadata: {} },
    held: new Map(),
    onDelta: async ({ upsert }) => {
      for (const { version } of upsert) seen.push(version);
      if (seen.length > 0) await gate.promise;
      return [];
    },
  });
  const running = client.run(stop.signal);
  await until("the first version", () => seen.length === 1);
  for (let version = 2; version <= 500; version++) server.store.update(ADDRESS_TYPE, [resource("a", String(version), 100_000)], []);
  const before = server.xds.streams()[0]?.types().get(ADDRESS_TYPE)?.responses;
  gate.resolve();
  await until("the newest version", () => seen.at(-1) === "500");
  assert.deepEqual(seen, ["1", "500"]);
  assert.equal(before, 1);
  stop.abort();
  await running;
});

test("strangers get nothing: no TLS 1.2, no HTTP/1.1, no call without a token, and an idle connection is closed", {
  timeout: 30_000,
}, async (t) => {
  const server = await serve(t);
  const [host = "", port = ""] = server.address.split(":");
  const handshake = (options: object): Promise<string> =>
    new Promise((resolve) => {
      const socket = connectTls({ host, port: Number(port), rejectUnauthorized: false, ...options });
      socket.once("secureConnect", () => socket.once("close", () => resolve("closed")).resume());
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
  assert.match(await handshake({ maxVersion: "TLSv1.2" }), /PROTOCOL_VERSION|HANDSHAKE_FAILURE/);
  assert.match(await handshake({ ALPNProtocols: ["http/1.1"] }), /ALPN|APPLICATION_PROTOCOL|closed/);
  const session = connectHttp2(`https://${server.address}`, { rejectUnauthorized: false });
  t.after(() => session.destroy());
  const call = session.request({
    ":method": "POST",
    ":path": "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "content-type": "application/grpc",
  });
  const headers = await new Promise<Record<string, unknown>>((resolve) => call.once("response", resolve));
  assert.deepEqual([headers["grpc-status"], headers["grpc-message"]], ["16", "not authenticated"]);
  assert.equal(await handshake({ ALPNProtocols: ["h2"] }), "closed");
});

test("one address cannot take more than its share of connections", async (t) => {
  const server = await serve(t);
  const [host = "", port = ""] = server.address.split(":");
  const sockets = Array.from({ length: 80 }, () => connect(Number(port), host));
  let closed = 0;
  for (const socket of sockets) {
    socket.on("error", () => undefined);
    socket.on("close", () => closed++);
  }
  t.after(() => sockets.forEach((socket) => void socket.destroy()));
  await until("the surplus is cut", () => closed >= 16);
  assert.equal(server.cuts.filter((reason) => reason.startsWith("more than 64")).length, 16);
});
