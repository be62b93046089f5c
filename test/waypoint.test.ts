// HTTP through a waypoint between two nodes: routed as its routes say, encrypted on both ways, and refused where no rule matches.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { paths, ports } from "#contract/tables.ts";
import type { FlowLine } from "#inspect/flow.ts";
import { canCapture } from "../src/lab/capture.ts";
import { get } from "../src/lab/mesh.ts";
import { holds, notTls, tcpStreams } from "../src/lab/pcap.ts";
import { until } from "../src/lab/until.ts";
import { startTestMesh, type TestMesh } from "./mesh.ts";
import { podDocument, untilReady } from "./pods.ts";
import type { Answer } from "./programs/ask.ts";
import type { Opened } from "./programs/socket.ts";

const program = (name: string): string => fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));
const PORT = 8080;
/** ClusterIP of the service whose routes the waypoint executes. */
const WEB = "10.96.99.20";

/** Behind the service: one on the client's node, one on the other. */
const SERVERS = [
  { name: "web-v1", node: "node-a", ips: ["10.99.1.31", "fd99:1::31"] },
  { name: "web-v2", node: "node-b", ips: ["10.99.2.31", "fd99:2::31"] },
] as const;

/** A pod outside of the mesh, for what is outside of the cluster. */
const OUTSIDE = "legacy/outsider";

let mesh: TestMesh;

const json = (...documents: object[]): string => documents.map((document) => JSON.stringify(document)).join("\n---\n");

function service(
  name: string,
  clusterIPs: readonly string[],
  selector: Record<string, string>,
  port: number,
  labels = {},
  annotations = {},
): object {
  const ports_ = [{ name: port === ports.hbone ? "hbone" : "http", port: port === PORT ? 80 : port, targetPort: port }];
  const metadata = { name, namespace: "app", labels, annotations };
  return { apiVersion: "v1", kind: "Service", metadata, spec: { clusterIPs, selector, ports: ports_ } };
}

/** One on each node; the second begins only where a claim needs it. */
const WAYPOINTS = [
  { name: "waypoint-0", node: "node-b", ips: ["10.99.2.39", "fd99:2::39"] },
  { name: "waypoint-1", node: "node-a", ips: ["10.99.1.39", "fd99:1::39"] },
] as const;

const waypointPod = ({ name, node, ips }: (typeof WAYPOINTS)[number], ready: boolean, gateway = "waypoint"): string =>
  json({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name,
      namespace: "app",
      labels: {
        "gateway.networking.k8s.io/gateway-name": gateway,
        "gateway.networking.k8s.io/gateway-class-name": "trackbed-waypoint",
      },
      annotations: { "trackbed.dev/netns": `/run/netns/app-${name}` },
    },
    spec: { nodeName: node, serviceAccountName: "waypoint", containers: [] },
    status: {
      phase: "Running",
      podIPs: ips.map((ip) => ({ ip })),
      conditions: [{ type: "Ready", status: ready ? "True" : "False" }],
    },
  });

const waypoint = (name: string, ips: readonly string[], labels = {}): string =>
  json(
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata: { name, namespace: "app", labels },
      spec: { gatewayClassName: "trackbed-waypoint", listeners: [{ name: "mesh", port: ports.hbone, protocol: "HBONE" }] },
    },
    service(name, ips, { "gateway.networking.k8s.io/gateway-name": name }, ports.hbone),
  );

const route = (rules: readonly object[]): string =>
  json({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "web", namespace: "app" },
    spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules },
  });

const to = (...backends: readonly (readonly [name: string, weight: number])[]) => ({
  backendRefs: backends.map(([name, weight]) => ({ name, port: 80, weight })),
});

const TO_V2_BY_HEADER = [
  { matches: [{ headers: [{ name: "version", value: "two" }] }], ...to(["web-v2", 1]) },
  { matches: [{ path: { type: "PathPrefix", value: "/v1" } }], ...to(["web-v1", 1]) },
];

/** The service and its versions; `share` of its connections, in percent, for a second waypoint. */
function web(share: string | null): string {
  const canary = share === null ? {} : { "trackbed.dev/use-waypoint-canary": "next" };
  const labels = { "trackbed.dev/use-waypoint": "waypoint", ...canary };
  const annotations = share === null ? {} : { "trackbed.dev/use-waypoint-canary-weight": share };
  return json(
    service("web", [WEB, "fd96:99::20"], { "trackbed.dev/test": "web" }, PORT, labels, annotations),
    service("web-v1", ["10.96.99.21", "fd96:99::21"], { app: "web-v1" }, PORT),
    service("web-v2", ["10.96.99.22", "fd96:99::22"], { app: "web-v2" }, PORT),
  );
}

before(async () => {
  mesh = await startTestMesh();
  mesh.document("web.yaml", web(null));
  for (const { name, node, ips } of SERVERS) mesh.document(`${name}.yaml`, podDocument({ name, node, ips, namespace: "app" }));
  mesh.document("waypoint.yaml", waypoint("waypoint", ["10.96.99.29", "fd96:99::29"]));
  const [first, second] = WAYPOINTS;
  mesh.document("waypoint-0.yaml", waypointPod(first, true));
  mesh.document("waypoint-1.yaml", waypointPod(second, false));
  mesh.document("route.yaml", route(TO_V2_BY_HEADER));
  await mesh.lab.reconcile();
  for (const name of [...SERVERS.map((one) => `app/${one.name}`), OUTSIDE]) {
    const pod = mesh.lab.pod(name);
    if (name !== OUTSIDE) await untilReady(mesh.lab, pod);
    const server = pod.spawn([process.execPath, program("web"), name.replace(/^.*\//, ""), String(PORT)]);
    let listening = false;
    server.stdout?.once("data", () => {
      listening = true;
    });
    await until(`${name} listens`, () => listening);
  }
  await mesh.lab.startWaypoint("app/waypoint-0");
});
after(() => mesh?.stop());

async function ask(path: string, headers: readonly string[] = [], count = 1, host = WEB): Promise<Answer[]> {
  const pod = mesh.lab.pod("app/client");
  const argv = [process.execPath, program("ask"), `http://${host}${path}`, String(count), ...headers];
  const text = await pod.run(argv, { timeoutMs: 60_000 });
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
}

/** The same while it goes on. */
function begin(path: string, headers: readonly string[], count: number, from: string) {
  const child = mesh.lab.pod(from).spawn([process.execPath, program("ask"), `http://${WEB}${path}`, String(count), ...headers]);
  const lines: string[] = [];
  if (child.stdout === null) throw new Error("the program has no output");
  createInterface(child.stdout).on("line", (line) => lines.push(line));
  return { lines, ended: once(child, "close") };
}

/** The first answers of a mesh that still learns of its documents may be others. */
const untilAnswer = (what: string, path: string, headers: readonly string[], is: (answer: Answer) => boolean): Promise<Answer> => {
  let last: Answer | undefined;
  return until(
    what,
    async () => {
      [last] = await ask(path, headers);
      return last !== undefined && is(last) ? last : null;
    },
    20_000,
    () => `${JSON.stringify(last)}\n${mesh.lab.tailLogs()}`,
  );
};

test("a request goes where the rule that matches it says, request by request on one connection", async () => {
  await untilAnswer("the header's rule", "/", ["version:two"], ({ by }) => by === "web-v2");
  const by = (answers: readonly Answer[]): string[] => [...new Set(answers.map(({ status, by: name }) => `${status} ${name}`))];
  assert.deepEqual(by(await ask("/", ["version:two"], 20)), ["200 web-v2"]);
  assert.deepEqual(by(await ask("/v1/x", [], 20)), ["200 web-v1"]);
});

test("a request that no rule matches is refused and reaches no server", async () => {
  const [answer] = await ask("/elsewhere");
  assert.deepEqual([answer?.status, answer?.by], [404, ""]);
});

test("Node's own client of HTTP/2 opens a WebSocket to its server of HTTP/1.1, and its trailers come through", async () => {
  const word = randomUUID();
  const argv = [process.execPath, program("socket"), WEB, "/v1/chat", word];
  const opened = JSON.parse(await mesh.lab.pod("app/client").run(argv, { timeoutMs: 20_000 })) as Opened;
  assert.deepEqual(opened, { status: 200, by: "web-v1", key: "some", heard: word });
  const [answer] = await ask("/v1/x", ["te:trailers"]);
  assert.equal(answer?.sum, String(answer?.body.length));
  assert.equal((await ask("/v1/x"))[0]?.sum, undefined);
});

test("each request is told of, with its route and who answered, beside the connections of the nodes", async () => {
  const marker = `/v1/${randomUUID()}`;
  await ask(marker);
  const socketPath = join(mesh.lab.directory, "control", "run", paths.adminSocket);
  const found = await until("the request's record", async () => {
    const lines = (await get({ socketPath }, "/v1/flows")).split("\n").filter((line) => line !== "");
    const flows = lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
    return flows.find(({ request }) => request?.path === marker);
  });
  const { source, destination, request } = found;
  assert.deepEqual(
    [source.identity, destination.pod, request?.status, request?.route],
    ["spiffe://cluster.local/ns/app/sa/client", "web-v1", 200, "HTTPRoute/app/web/1"],
  );
});

test("between the nodes nothing of a request or its answer is readable, on neither side of the waypoint", {
  skip: canCapture() ? false : "tcpdump needs root",
}, async () => {
  const marker = `trackbed-${randomUUID()}`;
  // A tunnel that was there before could not be read from its beginning.
  await mesh.lab.stopWaypoint("app/waypoint-0");
  await mesh.lab.startWaypoint("app/waypoint-0");
  const wires = await Promise.all(["node-a", "node-b"].map((node) => mesh.lab.captureWire(node)));
  const inside = await mesh.lab.capturePod("app/web-v1");
  await untilAnswer("an answer", `/v1/${marker}`, [], ({ status }) => status === 200);
  await Promise.all([...wires, inside].map((capture) => capture.stop()));
  assert.ok(holds(readFileSync(inside.file), marker), "the search itself: inside the server's pod the marker is seen");
  const waypoints = mesh.lab.pod("app/waypoint-0").ips;
  const pods = new Set(mesh.lab.pods.flatMap(({ ips }) => ips));
  for (const wire of wires) {
    const capture = readFileSync(wire.file);
    assert.ok(!holds(capture, marker), "the marker was on the wire");
    const streams = tcpStreams(capture).filter(({ source, destination }) => pods.has(source) && pods.has(destination));
    const directions = new Set<string>();
    for (const stream of streams) {
      const what = `${stream.source} ${stream.sourcePort} to ${stream.destination} ${stream.destinationPort}`;
      assert.ok([stream.sourcePort, stream.destinationPort].includes(ports.hbone), what);
      assert.equal(notTls(stream), null, what);
      if (stream.destinationPort === ports.hbone) directions.add(waypoints.includes(stream.destination) ? "to the waypoint" : "from it");
    }
    assert.deepEqual([...directions].sort(), ["from it", "to the waypoint"]);
  }
});

test("a canary gets its share by weight, and a change of it holds from the next request on", async () => {
  mesh.document("route.yaml", route([to(["web-v1", 9], ["web-v2", 1])]));
  await untilAnswer("the new route", "/any", [], ({ status }) => status === 200);
  const share = (await ask("/any", [], 400)).filter(({ by }) => by === "web-v2").length / 400;
  assert.ok(share > 0.03 && share < 0.2, `${share} of the requests went to a canary of one tenth`);
  mesh.document("route.yaml", route([to(["web-v1", 0], ["web-v2", 1])]));
  await untilAnswer("the shift", "/any", [], ({ by }) => by === "web-v2");
  await until("no request goes to the old version", async () => (await ask("/any", [], 20)).every(({ by }) => by === "web-v2"), 20_000);
  mesh.document("route.yaml", route(TO_V2_BY_HEADER));
});

test("a second waypoint gets its share of the connections, and all of them when all are its share", async () => {
  const [first, second] = WAYPOINTS;
  mesh.document("next.yaml", waypoint("next", ["10.96.99.28", "fd96:99::28"]));
  mesh.document("waypoint-1.yaml", waypointPod(second, true, "next"));
  await mesh.lab.startWaypoint("app/waypoint-1");
  const served = async (): Promise<[number, number]> => [await requestsOf(first.name), await requestsOf(second.name)];
  const [before] = await served();
  mesh.document("web.yaml", web("50"));
  const both = async (): Promise<boolean> => {
    assert.deepEqual(
      (await ask("/v1/x")).map(({ status }) => status),
      [200],
    );
    const [now, next] = await served();
    return now > before && next > 0;
  };
  await until("both serve", both, 20_000);
  mesh.document("web.yaml", web("100"));
  await until("the first serves no more", async () => {
    const [now] = await served();
    await ask("/v1/x");
    return (await served())[0] === now;
  });
  const [now, next] = await served();
  for (let i = 0; i < 10; i++) await ask("/v1/x");
  assert.deepEqual(await served(), [now, next + 10]);
  mesh.document("web.yaml", web(null));
  mesh.document("waypoint-1.yaml", waypointPod(second, false));
  mesh.document("next.yaml", null);
  await mesh.lab.stopWaypoint("app/waypoint-1");
  await untilAnswer("the first one again", "/", ["version:two"], ({ by }) => by === "web-v2");
});

/** Requests that a waypoint says that it served. */
async function requestsOf(pod: string): Promise<number> {
  const place = mesh.lab.pod(`app/${pod}`);
  const text = await place.run(["curl", "-sS", "--max-time", "5", `http://${place.ips[0]}:${ports.engineMetrics}/metrics`]);
  return [...text.matchAll(/^istio_requests_total\{.*\} ([0-9]+)$/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
}

test("a waypoint that ends gives its clients to the other one, and no request is lost", async () => {
  const [first, second] = WAYPOINTS;
  await mesh.lab.startWaypoint("app/waypoint-1");
  await untilAnswer("the header's rule", "/", ["version:two"], ({ by }) => by === "web-v2");
  const asking = ["app/client", "app/neighbour"].map((from) => begin("/", ["version:two", "x-slow:20"], 300, from));
  await until("requests are under way", () => asking.every(({ lines }) => lines.length >= 10));
  // As the kubelet would say it, and then end it.
  mesh.document("waypoint-1.yaml", waypointPod(second, true));
  mesh.document("waypoint-0.yaml", waypointPod(first, false));
  await mesh.lab.stopWaypoint("app/waypoint-0");
  const under = asking.map(({ lines }) => lines.length);
  assert.ok(
    under.every((count) => count < 300),
    "the requests were over before the waypoint was",
  );
  await Promise.all(asking.map(({ ended }) => ended));
  const answers = asking.flatMap(({ lines }) => lines.map((line) => JSON.parse(line) as Answer));
  assert.equal(answers.length, 600);
  const lost = answers.filter(({ status, by }) => status !== 200 || by !== "web-v2");
  assert.deepEqual(lost.slice(0, 3), [], `${lost.length} of ${answers.length}`);
  await mesh.lab.startWaypoint("app/waypoint-0");
  mesh.document("waypoint-0.yaml", waypointPod(first, true));
  mesh.document("waypoint-1.yaml", waypointPod(second, false));
  await mesh.lab.stopWaypoint("app/waypoint-1");
  await untilAnswer("the first one again", "/", ["version:two"], ({ by }) => by === "web-v2");
});

const forwardedFor = (answer: Answer | undefined): unknown =>
  answer?.body === undefined || answer.body === ""
    ? undefined
    : (JSON.parse(answer.body) as { headers: Record<string, string> }).headers["x-forwarded-for"];

test("who asks for a pod by its own address passes its waypoint too, where that is for pods", async () => {
  const [server] = SERVERS;
  const [own = ""] = server.ips;
  const [client] = mesh.lab.pod("app/client").ips;
  const pod = (labels: Record<string, string>) => podDocument({ ...server, namespace: "app", labels });
  const at = `${own}:${PORT}`;
  const [direct] = await ask("/any", [], 1, at);
  assert.deepEqual([direct?.by, forwardedFor(direct)], ["web-v1", undefined]);
  mesh.document("web-v1.yaml", pod({ "trackbed.dev/use-waypoint": "waypoint" }));
  mesh.document("waypoint.yaml", waypoint("waypoint", ["10.96.99.29", "fd96:99::29"], { "trackbed.dev/waypoint-for": "all" }));
  const through = await until("the pod's waypoint", async () => {
    const [answer] = await ask("/any", [], 1, at);
    return forwardedFor(answer) === undefined ? null : answer;
  });
  // No route is about it: that path is refused where the service is asked for.
  assert.deepEqual([through.status, through.by, forwardedFor(through)], [200, "web-v1", client]);
  mesh.document("web-v1.yaml", pod({}));
  mesh.document("waypoint.yaml", waypoint("waypoint", ["10.96.99.29", "fd96:99::29"]));
  await until("it is reached directly", async () => forwardedFor((await ask("/any", [], 1, at))[0]) === undefined);
});

test("a host outside of the cluster is reached through the waypoint of its ServiceEntry, as a route of that says", async () => {
  const address = "203.0.113.80";
  const group = "networking.istio.io";
  const [endpoint = ""] = mesh.lab.pod(OUTSIDE).ips;
  mesh.document(
    "bank.yaml",
    json({
      apiVersion: `${group}/v1`,
      kind: "ServiceEntry",
      metadata: { name: "bank", namespace: "app", labels: { "trackbed.dev/use-waypoint": "waypoint" } },
      spec: {
        hosts: ["api.bank.example"],
        addresses: [address],
        resolution: "STATIC",
        ports: [{ number: 80, name: "http", protocol: "HTTP", targetPort: PORT }],
        endpoints: [{ address: endpoint }],
      },
    }),
  );
  const rules = [
    {
      matches: [{ path: { type: "PathPrefix", value: "/accounts" } }],
      filters: [{ type: "URLRewrite", urlRewrite: { hostname: "api.bank.example" } }],
      backendRefs: [{ group, kind: "Hostname", name: "api.bank.example", port: 80 }],
    },
  ];
  mesh.document(
    "bank-route.yaml",
    json({
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: { name: "bank", namespace: "app" },
      spec: { parentRefs: [{ group, kind: "ServiceEntry", name: "bank" }], rules },
    }),
  );
  const answer = await until("the bank answers", async () => {
    const [one] = await ask("/accounts/7", [], 1, address);
    return one?.status === 200 ? one : null;
  });
  const { headers } = JSON.parse(answer.body) as { headers: Record<string, string> };
  assert.deepEqual(
    [answer.by, headers["host"], headers["x-forwarded-for"]],
    ["outsider", "api.bank.example", mesh.lab.pod("app/client").ips[0]],
  );
  assert.deepEqual((await ask("/else", [], 1, address))[0]?.status, 404);
  mesh.document("bank-route.yaml", null);
  mesh.document("bank.yaml", null);
});

test("without its waypoint a service refuses: nothing goes past it", async () => {
  await untilAnswer("the header's rule", "/", ["version:two"], ({ by }) => by === "web-v2");
  await mesh.lab.stopWaypoint("app/waypoint-0", "SIGKILL");
  const [answer] = await ask("/", ["version:two"]);
  assert.equal(answer?.status, 0, JSON.stringify(answer));
  await mesh.lab.startWaypoint("app/waypoint-0");
  await untilAnswer("it is back", "/", ["version:two"], ({ by }) => by === "web-v2");
});
