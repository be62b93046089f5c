// Claims about the director of waypoints, tried with a gRPC client over control's own TLS port.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { request as requestHttp } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { pino } from "pino";
import {
  Direction,
  Director,
  FlowPhase,
  FlowSchema,
  type FromEngine,
  FromEngineSchema,
  Path,
  type ReportBatchSchema,
  ResourceType,
  type StateDelta,
  type ToEngine,
  Verdict,
} from "#contract/gen/engine_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import type { FlowLine, RequestRecord } from "#inspect/flow.ts";
import { controlChannel } from "#xds/channel.ts";
import { createQueue } from "#xds/queue.ts";
import { startControl } from "./control.ts";

const DEADLINE_MILLISECONDS = 10_000;

const NODE = "apiVersion: v1\nkind: Node\nmetadata: { name: node-a }\n";
const NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { trackbed.dev/mesh: enabled } }\n";
const GATEWAY = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: shop }
spec: { gatewayClassName: trackbed-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
`;

const DENY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny, namespace: shop }
spec: { action: DENY, rules: [{ from: [{ source: { namespaces: [mail] } }] }] }
`;

const pod = (name: string, ip: string, labels = "{}"): string => `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, uid: uid-${name}, labels: ${labels}, annotations: { trackbed.dev/netns: /run/netns/${name} } }
spec: { nodeName: node-a, serviceAccountName: ${name}, containers: [] }
status: { phase: Running, podIPs: [{ ip: ${ip} }], conditions: [{ type: Ready, status: "True" }] }
`;

const OF_GATEWAY = "{ gateway.networking.k8s.io/gateway-name: waypoint, gateway.networking.k8s.io/gateway-class-name: trackbed-waypoint }";

async function until<T>(what: string, probe: () => T | null | undefined | false): Promise<T> {
  for (const end = Date.now() + DEADLINE_MILLISECONDS; ; await new Promise((resolve) => setTimeout(resolve, 5))) {
    const value = probe();
    if (value !== null && value !== undefined && value !== false) return value;
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
  }
}

async function mesh(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "waypoints-"));
  const end = new AsyncDisposableStack();
  t.after(() => end.disposeAsync());
  end.defer(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "mesh"));
  const write = (file: string, text: string): void => writeFileSync(join(dir, "mesh", file), text);
  write("node.yaml", NODE);
  write("namespace.yaml", NAMESPACE);
  write("gateway.yaml", GATEWAY);
  write("cart.yaml", pod("cart", "10.0.0.1"));
  write("way.yaml", pod("way", "10.0.0.9", OF_GATEWAY));
  write("deny.yaml", DENY);
  const options = {
    platform: { kind: "directory", mesh: join(dir, "mesh"), state: join(dir, "state"), tokens: join(dir, "tokens") },
    listen: [{ host: "127.0.0.1", port: 0 }],
    health: { host: "127.0.0.1", port: 0 },
    trustDomain: "cluster.local",
    clusterDomain: "cluster.local",
    rootNamespace: "trackbed-system",
    encryptSameNode: false,
    adopt: "none",
  } as const;
  const control = await startControl(options, "0.0.0-test", pino({ level: "silent" }));
  end.defer(async () => void (await control.drain()));
  const tokenOf = (name: string): string => join(dir, "tokens", `${name}.token`);

  function channel(token: string) {
    const opened = controlChannel({
      control: `https://${control.addresses[0]}`,
      root: join(dir, "state", "root-cert.pem"),
      token: tokenOf(token),
    });
    end.defer(() => opened.abort());
    return opened;
  }
  return { dir, write, control, tokenOf, channel, end };
}

type Said = NonNullable<MessageInitShape<typeof FromEngineSchema>["message"]>;

/** An engine that keeps what it hears. */
function engine(end: AsyncDisposableStack, channel: ReturnType<typeof controlChannel>) {
  const heard: ToEngine["message"][] = [];
  const ended = Promise.withResolvers<ConnectError | null>();
  const stop = new AbortController();
  end.defer(() => stop.abort());
  const said = createQueue<FromEngine>();
  const say = (message: Said): void => void said.push(create(FromEngineSchema, { message }));
  say({ case: "hello", value: { contractVersion: 1, engineVersion: "test", instance: "one", bootId: "" } });
  void (async () => {
    for await (const { message } of createClient(Director, channel.transport).attach(said, { signal: stop.signal })) {
      heard.push(message);
      if (message.case === "state") say({ case: "applied", value: { generation: message.value.generation } });
    }
  })().then(
    () => ended.resolve(null),
    (error: unknown) => ended.resolve(ConnectError.from(error)),
  );
  const find = <C extends ToEngine["message"]["case"]>(of: C) =>
    heard.find((message) => message.case === of)?.value as Extract<ToEngine["message"], { case: C }>["value"] | undefined;
  const states = (): StateDelta[] => heard.flatMap((message) => (message.case === "state" ? [message.value] : []));
  return { heard, find, say, states, ended: ended.promise, hangUp: () => stop.abort() };
}

const request = (): Uint8Array<ArrayBuffer> => {
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"];
  return new Uint8Array(execFileSync("openssl", ["req", "-new", "-sha256", ...curve, "-subj", "/", "-outform", "DER"], { stdio: "pipe" }));
};

test("a waypoint is told who it is and what there is, policies and addresses, and then that nothing is missing", async (t) => {
  const { channel, end } = await mesh(t);
  const one = engine(end, channel("shop_way"));
  await until("InSync", () => one.find("inSync"));
  const settings = one.find("welcome")?.settings;
  assert.deepEqual([settings?.node, settings?.trustDomain, settings?.encryptSameNode], ["", "cluster.local", true]);
  const added = one.find("addPod");
  assert.deepEqual(
    [added?.uid, added?.name, added?.namespace, added?.serviceAccount, added?.waypoint, added?.netnsCookie, added?.captureInbound],
    ["uid-way", "way", "shop", "way", true, 0n, false],
  );
  assert.deepEqual(added?.addresses, [Uint8Array.of(10, 0, 0, 9)]);
  const upserted = one.states().flatMap(({ upsert }) => upsert);
  assert.ok(upserted.some(({ type, name }) => type === ResourceType.ADDRESS && name === "Kubernetes//Pod/shop/way"));
  assert.ok(upserted.some(({ type, name }) => type === ResourceType.AUTHORIZATION && name === "shop/deny"));
});

test("a change reaches an attached waypoint as the difference", async (t) => {
  const { write, channel, end } = await mesh(t);
  const one = engine(end, channel("shop_way"));
  await until("InSync", () => one.find("inSync"));
  const before = one.states().length;
  write("way.yaml", pod("way", "10.0.0.10", OF_GATEWAY));
  const [next] = await until("another delta", () => (one.states().length > before ? one.states().slice(before) : null));
  assert.deepEqual(
    next?.upsert.map(({ name }) => name),
    ["Kubernetes//Pod/shop/way"],
  );
  await until("its new address", () =>
    one.heard.some((message) => message.case === "addPod" && message.value.addresses[0]?.join(".") === "10.0.0.10"),
  );
});

const service = (name: string, ip: string, selector: string, labels = "{}"): string => `apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop, labels: ${labels} }
spec: { clusterIPs: [${ip}], selector: ${selector}, ports: [{ name: http, port: 80 }] }
`;

test("a waypoint gets what it serves and where that leads, with its routes, and nothing of the rest of the mesh", async (t) => {
  const { write, channel, end } = await mesh(t);
  write("waypoint.yaml", service("waypoint", "10.96.0.9", "{ gateway.networking.k8s.io/gateway-name: waypoint }"));
  write("web.yaml", service("web", "10.96.0.1", "{ app: none }", "{ trackbed.dev/use-waypoint: waypoint }"));
  write("backend.yaml", service("backend", "10.96.0.2", "{ app: none }"));
  write("stranger.yaml", service("stranger", "10.96.0.3", "{ app: none }"));
  const route = (backend: string): string => `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: web }]
  rules: [{ backendRefs: [{ name: ${backend}, port: 80 }] }]
`;
  write("route.yaml", route("backend"));
  const one = engine(end, channel("shop_way"));
  const held = (type: ResourceType): string[] => {
    const names = new Set<string>();
    for (const { upsert, remove } of one.states()) {
      for (const each of remove) if (each.type === type) names.delete(each.name);
      for (const each of upsert) if (each.type === type) names.add(each.name);
    }
    return [...names].sort();
  };
  const named = (name: string): string => `shop/${name}.shop.svc.cluster.local`;
  await until(
    "the routes",
    () => held(ResourceType.ROUTES).includes(named("web")) && held(ResourceType.ADDRESS).includes(named("backend")),
  );
  assert.ok(held(ResourceType.ADDRESS).includes(named("web")));
  for (const absent of [named("stranger"), "Kubernetes//Pod/shop/cart"]) assert.ok(!held(ResourceType.ADDRESS).includes(absent), absent);
  write("route.yaml", route("stranger"));
  await until("another backend takes the first one's place", () => {
    const names = held(ResourceType.ADDRESS);
    return names.includes(named("stranger")) && !names.includes(named("backend"));
  });
});

test("a waypoint gets a certificate for itself, and for nobody else", async (t) => {
  const { dir, channel, end } = await mesh(t);
  const one = engine(end, channel("shop_way"));
  await until("InSync", () => one.find("inSync"));
  const ask = async (requestId: bigint, identity: string, podUid: string) => {
    one.say({ case: "certificateRequest", value: { requestId, identity, podUid, csr: request() } });
    return until(`answer ${requestId}`, () => {
      const found = one.heard.find((message) => message.case === "certificateReply" && message.value.requestId === requestId);
      return found?.case === "certificateReply" ? found.value : null;
    });
  };
  const own = await ask(1n, "spiffe://cluster.local/ns/shop/sa/way", "uid-way");
  assert.equal(own.code, "", own.reason);
  const [leaf] = own.chain.map((der) => new X509Certificate(der));
  assert.equal(leaf?.subjectAltName, "URI:spiffe://cluster.local/ns/shop/sa/way");
  assert.equal(own.roots.length, 1);
  assert.ok(existsSync(join(dir, "state", "root-cert.pem")));
  const wrong: [string, string][] = [
    ["spiffe://cluster.local/ns/shop/sa/cart", "uid-cart"],
    ["spiffe://cluster.local/ns/shop/sa/cart", "uid-way"],
    ["spiffe://cluster.local/ns/bank/sa/way", "uid-way"],
    ["spiffe://other.local/ns/shop/sa/way", "uid-way"],
    ["spiffe://cluster.local/ns/shop/sa/way", "uid-other"],
    ["way", "uid-way"],
  ];
  for (const [i, [identity, uid]] of wrong.entries()) {
    const refused = await ask(BigInt(i + 2), identity, uid);
    assert.deepEqual(
      [refused.code, refused.reason, refused.chain.length],
      ["E_IDENTITY_REFUSED", "certificate request refused", 0],
      identity,
    );
  }
});

test("a node's token opens no waypoint's stream, a waypoint's token no node's service, and a pod that is no waypoint's has no token", async (t) => {
  const { tokenOf, channel, end } = await mesh(t);
  const one = engine(end, channel("node-a"));
  assert.equal((await one.ended)?.code, Code.Unauthenticated);
  const certificates = createClient(IstioCertificateService, channel("shop_way").transport);
  const error = await certificates.createCertificate({}).then(() => null, ConnectError.from);
  assert.equal(error?.code, Code.Unauthenticated);
  assert.ok(existsSync(tokenOf("shop_way")) && !existsSync(tokenOf("shop_cart")));
});

test("a waypoint whose pod goes loses its stream, and cannot come back", async (t) => {
  const { dir, channel, end } = await mesh(t);
  const one = engine(end, channel("shop_way"));
  await until("InSync", () => one.find("inSync"));
  rmSync(join(dir, "mesh", "way.yaml"));
  await one.ended;
  const again = engine(end, channel("shop_way"));
  const refused = await again.ended;
  assert.ok(refused?.code === Code.Unauthenticated || refused?.code === Code.Unavailable, String(refused));
  assert.equal(again.heard.length, 0);
});

test("another stream of the same pod takes the first one's place", async (t) => {
  const { channel, end } = await mesh(t);
  const first = engine(end, channel("shop_way"));
  await until("InSync", () => first.find("inSync"));
  const second = engine(end, channel("shop_way"));
  await until("InSync", () => second.find("inSync"));
  await first.ended;
});

test("what a waypoint says of a request is kept, for readers on control's own host alone", async (t) => {
  const { control, dir, channel, end } = await mesh(t);
  const one = engine(end, channel("shop_way"));
  await until("InSync", () => one.find("inSync"));
  const flow = create(FlowSchema, {
    phase: FlowPhase.CLOSED,
    direction: Direction.INBOUND,
    path: Path.TUNNEL,
    verdict: Verdict.ALLOWED,
    start: BigInt(Date.now()) * 1_000_000n,
    service: "shop/web.shop.svc.cluster.local",
    request: { method: "GET", authority: "web", path: "/cart", status: 503, flags: "UF,URX", route: "HTTPRoute/shop/web/0", retries: 2 },
  });
  async function* batches(): AsyncGenerator<MessageInitShape<typeof ReportBatchSchema>> {
    yield { flows: [toBinary(FlowSchema, flow)] };
  }
  const { received } = await createClient(Director, channel("shop_way").transport).report(batches());
  assert.equal(received, 1n);
  const recordOf = (text: string): RequestRecord | null => {
    const [line] = text
      .trim()
      .split("\n")
      .map((each) => JSON.parse(each) as FlowLine);
    return line?.type === "flow" ? line.flow.request : null;
  };
  const byPort = recordOf(await (await fetch(`http://${control.health}/v1/flows`)).text());
  assert.deepEqual([byPort?.method, byPort?.path, byPort?.status, byPort?.flags, byPort?.retries], ["GET", "/cart", 503, ["UF", "URX"], 2]);
  const socketPath = join(dir, "state", "run", "admin.sock");
  assert.equal(statSync(socketPath).mode & 0o777, 0o600);
  const bySocket = await new Promise<string>((resolve, reject) => {
    requestHttp({ socketPath, path: "/v1/flows" }, (response) => text(response).then(resolve, reject))
      .once("error", reject)
      .end();
  });
  assert.deepEqual(recordOf(bySocket), byPort);
  assert.equal((await fetch(`http://${control.health}/v1/flows?since=never`)).status, 400);
  const refused = createClient(Director, channel("node-a").transport).report(batches());
  assert.equal(ConnectError.from(await refused.catch((error: unknown) => error)).code, Code.Unauthenticated);
});
