// Claims about the flow service of Hubble's clients: what they get over gRPC, what they may filter by, and what is refused instead of being left out.
import assert from "node:assert/strict";
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createGrpcTransport } from "@connectrpc/connect-node";
import { type Flow, FlowFilterSchema, FlowType, NodeState, Observer, Verdict } from "#contract/gen/hubble/observer_pb.ts";
import { meshError } from "#mesh/error.ts";
import type { FlowRecord } from "../flow.ts";
import type { AnswerLine, Question } from "../question.ts";
import { observerService } from "./observer.ts";

type Filter = MessageInitShape<typeof FlowFilterSchema>;

const end = (name: string, address: string, port: number) => ({
  address,
  port,
  pod: `${name}-1`,
  workload: name,
  namespace: name === "db" ? "bank" : "shop",
  identity: `spiffe://x/ns/shop/sa/${name}`,
  node: "node-a",
});
const record = (id: number, more: Partial<FlowRecord> = {}): FlowRecord => ({
  id: String(id),
  phase: "opened",
  direction: "inbound",
  path: "tunnel",
  verdict: "allowed",
  policy: "shop/let-web",
  rule: 0,
  code: null,
  reason: null,
  start: new Date(1_700_000_000_000 + id * 1000).toISOString(),
  source: end("web", "10.0.0.1", 40_000 + id),
  destination: end("api", "10.0.1.2", 8080),
  service: "shop/api.shop.svc.cluster.local",
  bytesSent: 0,
  bytesReceived: 0,
  connectMicroseconds: 0,
  handshakeMicroseconds: 0,
  firstByteMicroseconds: 0,
  durationMicroseconds: 0,
  tls: { version: "TLSv1.3", cipher: "c", group: "X25519MLKEM768", peerSerial: "01" },
  closedBy: null,
  reset: false,
  protocol: null,
  serverName: null,
  responseFlags: null,
  podUid: "uid",
  request: null,
  audit: null,
  ...more,
});
const answered = {
  method: "GET",
  authority: "api",
  path: "/cart",
  port: 80,
  protocol: "HTTP/2.0",
  status: 503,
  grpcStatus: null,
  flags: [],
  route: null,
  backend: null,
  retries: 0,
  requestId: null,
  traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
};
const records: FlowRecord[] = [
  record(1),
  record(2, { phase: "closed", reset: true, durationMicroseconds: 321_354 }),
  record(3, { phase: "closed", verdict: "denied", policy: "bank/only-shop", destination: end("db", "10.0.2.3", 5432), service: null }),
  record(4, { phase: "closed", verdict: "failed", policy: null, code: "E_TUNNEL_CONNECT", direction: "outbound", tls: null }),
  record(5, { phase: "closed", durationMicroseconds: 2000, request: answered }),
  record(6, { audit: { verdict: "denied", policy: "shop/stricter", rule: null, code: "E_POLICY_NO_ALLOW" } }),
];

const asked: Question[] = [];
let refuse: Error | null = null;
async function* ask(question: Question): AsyncGenerator<AnswerLine> {
  asked.push(question);
  if (refuse !== null) throw refuse;
  if (question.about === "flows" && !question.follow) {
    for (const flow of records) yield { type: "flow", sequence: 1, flow, node: "node-a" };
    yield { type: "dropped", count: 7 };
    yield { type: "missing", node: "node-b", reason: "its daemon is away" };
    yield { type: "answered", nodes: ["node-a"] };
  } else if (question.about === "flows") yield { type: "flow", sequence: 1, flow: record(9), node: "node-a" };
  else yield { type: "group", group: { "source.namespace": "shop", "destination.namespace": "bank" } } as never;
}

const server = createServer(
  connectNodeAdapter({
    routes: (router) => router.service(Observer, observerService({ ask, namespaces: ["shop"], version: "1.2.3" })),
  }),
);
let client: ReturnType<typeof createClient<typeof Observer>>;
before(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  client = createClient(Observer, createGrpcTransport({ baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }));
});
const sessions = new Set<{ destroy(): void }>();
server.on("session", (session) => sessions.add(session));
after(() => {
  for (const session of sessions) session.destroy();
  server.close();
});

async function got(request: { whitelist?: Filter[]; blacklist?: Filter[]; number?: bigint; first?: boolean; follow?: boolean } = {}) {
  const [flows, others]: [Flow[], string[]] = [[], []];
  for await (const { responseTypes } of client.getFlows(request))
    if (responseTypes.case === "flow") flows.push(responseTypes.value);
    else others.push(responseTypes.case ?? "");
  return { flows, others, ids: flows.map(({ uuid }) => uuid.split("/")[2]).join("") };
}

test("each record is a flow that Hubble's clients know, and what is missing is told in their way", async () => {
  const { flows, others } = await got();
  assert.deepEqual(others, ["lostEvents", "nodeStatus"]);
  const [opened, closed, denied, failed, answer, tried] = flows;
  assert.deepEqual([opened?.verdict, opened?.eventType?.type, opened?.ingressAllowedBy[0]?.name], [Verdict.FORWARDED, 5, "let-web"]);
  assert.deepEqual([opened?.ip?.encrypted, opened?.l4?.protocol.value?.flags?.syn, opened?.isReply], [true, true, false]);
  assert.deepEqual(
    [opened?.source?.podName, opened?.destination?.workloads[0]?.name, opened?.destinationService?.name],
    ["web-1", "api", "api.shop.svc.cluster.local"],
  );
  assert.deepEqual([closed?.eventType?.type, closed?.l4?.protocol.value?.flags?.rst, closed?.time?.nanos], [4, true, 321_354_000]);
  assert.deepEqual([denied?.verdict, denied?.dropReasonDesc, denied?.ingressDeniedBy[0]?.namespace], [Verdict.DROPPED, 133, "bank"]);
  assert.deepEqual([failed?.verdict, failed?.summary, failed?.ip?.encrypted], [Verdict.ERROR, "TCP E_TUNNEL_CONNECT (tunnel)", false]);
  assert.deepEqual(
    [answer?.type, answer?.isReply, answer?.source?.podName, answer?.l7?.record.value?.code],
    [FlowType.L7, true, "api-1", 503],
  );
  assert.equal(answer?.traceContext?.parent?.traceId, "0af7651916cd43dd8448eb211c80319c");
  assert.deepEqual([tried?.verdict, tried?.ingressDeniedBy[0]?.name], [Verdict.AUDIT, "stricter"]);
  assert.deepEqual(
    asked.at(-1)?.about === "flows" && asked.at(-1),
    { ...asked.at(-1), namespaces: ["shop"] },
    "only what its owner asked for",
  );
});

test("filters hold together within one, and any of several; what fits none of them is left out", async () => {
  const ids = async (...whitelist: Filter[]): Promise<string> => (await got({ whitelist })).ids;
  assert.equal(await ids({ verdict: [Verdict.DROPPED, Verdict.ERROR] }), "34");
  assert.equal(await ids({ sourcePod: ["shop/we"], destinationPort: ["5432"] }), "3");
  assert.equal(await ids({ destinationPod: ["bank/"] }, { httpStatusCode: ["5+"] }), "35");
  assert.equal(await ids({ destinationIp: ["10.0.2.0/24"] }), "3");
  assert.equal(await ids({ destinationWorkload: [{ name: "web" }] }), "5", "an answer goes to the client");
  assert.equal(await ids({ httpPath: ["^/ca"], httpMethod: ["get"] }), "5");
  assert.equal(await ids({ encrypted: [false] }), "4");
  assert.equal(await ids({ nodeName: ["default/node-*"], trafficDirection: [2] }), "4");
  assert.equal(await ids({ sourcePod: ["web"] }), "12346");
  assert.equal((await got({ blacklist: [{ verdict: [Verdict.FORWARDED] }] })).ids, "346");
  assert.equal((await got({ number: 2n })).ids, "56");
  assert.equal((await got({ number: 2n, first: true })).ids, "12");
  assert.equal((await got({ number: 1n, follow: true })).ids, "69", "the last one, and those to come");
});

test("what cannot be followed is refused, and so is who may not read", async () => {
  const refused = async (request: Parameters<typeof got>[0]): Promise<[Code, string]> => {
    const error = await got(request).then(
      () => assert.fail("it was answered"),
      (thrown: unknown) => ConnectError.from(thrown),
    );
    return [error.code, error.rawMessage];
  };
  const before = asked.length;
  // Field 10: labels of the source, which no record has.
  const unknown = create(FlowFilterSchema);
  unknown.$unknown = [{ no: 10, wireType: 2, data: Uint8Array.of(3, 97, 61, 98) }];
  const [code, message] = await refused({ whitelist: [unknown] });
  assert.equal(code, Code.InvalidArgument);
  assert.match(message, /field 10 of a flow filter is not known here/);
  for (const filter of [{ httpPath: ["("] }, { sourceIp: ["web"] }, { httpStatusCode: ["abc"] }])
    assert.equal((await refused({ whitelist: [filter] }))[0], Code.InvalidArgument, JSON.stringify(filter));
  assert.equal(asked.length, before, "nobody was asked");
  refuse = meshError("E_INSPECTION_REFUSED", "bob may not get flows.trackbed.dev of namespace shop");
  assert.deepEqual(await refused({}), [
    Code.PermissionDenied,
    "bob may not get flows.trackbed.dev of namespace shop (E_INSPECTION_REFUSED)",
  ]);
  await assert.rejects(client.serverStatus({}), (error) => ConnectError.from(error).code === Code.PermissionDenied);
  refuse = null;
});

test("nodes and namespaces are those that took part, with those that did not", async () => {
  const { nodes } = await client.getNodes({});
  assert.deepEqual(
    nodes.map(({ name, state }) => [name, state]),
    [
      ["node-a", NodeState.NODE_CONNECTED],
      ["node-b", NodeState.NODE_UNAVAILABLE],
    ],
  );
  const status = await client.serverStatus({});
  assert.deepEqual(
    [status.numConnectedNodes, status.numUnavailableNodes, status.unavailableNodes, status.version],
    [1, 1, ["node-b"], "1.2.3"],
  );
  assert.deepEqual(
    (await client.getNamespaces({})).namespaces.map(({ namespace }) => namespace),
    ["bank", "shop"],
  );
});
