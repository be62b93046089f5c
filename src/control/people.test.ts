// Claims about what people ask through control: real ports, two replicas, daemons on each, and nobody gets what he may not see.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { openAuthority } from "#ca/local.ts";
import { Inspection } from "#contract/gen/control_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import type { Answer, TimedLine } from "#inspect/answer.ts";
import type { AnswerLine, Question } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import { controlChannel } from "#xds/channel.ts";
import { inspection } from "../daemon/inspection.ts";
import { createAccess } from "./access.ts";
import { createInspection } from "./inspection.ts";
import { listen } from "./listener.ts";
import { createPeers, type Peer } from "./peers.ts";
import { ASK_PATH, servePeople, type Viewers } from "./people.ts";

const DEADLINE_MILLISECONDS = 10_000;

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + DEADLINE_MILLISECONDS; !condition(); ) {
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** "alice" may read everything, "bob" what touches shop, a pod's token nothing. */
const viewers: Viewers = {
  viewerOf: async (token) => {
    if (token === "unlucky") throw new Error("nobody can say");
    return ["alice", "bob", "carol", "pod", "rightless"].includes(token) ? { username: token, uid: "", groups: [], extra: {} } : null;
  },
  mayRead: async ({ username }, namespace) => {
    if (username === "rightless") throw new Error("nobody can say");
    return username === "alice" || (username === "bob" && namespace === "shop");
  },
  mayRecord: async ({ username }, namespace) => username === "carol" && namespace === "shop",
};

const place = (t: TestContext): string => {
  const directory = mkdtempSync(join(tmpdir(), "people-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
};

async function mesh(t: TestContext, nodes: readonly string[]) {
  const directory = place(t);
  const authority = openAuthority(join(directory, "state"));
  const root = join(directory, "root-cert.pem");
  writeFileSync(root, authority.roots());
  const refused: string[] = [];
  const asked: string[] = [];
  const announced: string[] = [];
  const broken: unknown[] = [];

  async function replica(name: string, peers: () => readonly Peer[], waypoints: Answer = nothing, port = 0) {
    const server = createInspection();
    const proofs = { nodeOf: async (token: string) => (token.startsWith("node-") ? token : null), waypointOf: async () => null };
    const access = createAccess(proofs, (_address, reason) => refused.push(reason));
    const adapter = connectNodeAdapter({
      routes: (router) => router.service(Inspection, server.service),
      contextValues: access.contextValues,
    });
    const people = servePeople({
      viewers,
      inspection: server,
      waypoints,
      peers: createPeers({ list: peers, port: PORT, roots: authority.roots, serverName: "localhost" }),
      nodes: () => nodes,
      announce: async ({ pods, by }) => {
        if (pods.some(({ name }) => name === "nobody")) throw meshError("E_RECORDING_REFUSED", "there is no such pod");
        announced.push(`${by} ${pods.map(({ namespace, name }) => `${namespace}/${name}`).join()}`);
      },
      onAsked: (viewer, { about }) => asked.push(`${viewer} ${about}`),
      onRefused: (_address, reason) => refused.push(reason),
    });
    const daemons = access.guard(adapter);
    const host = name === "one" ? "127.0.0.1" : "127.0.0.2";
    const listener = await listen({
      endpoints: [{ host, port }],
      credentials: authority.serverCertificate({ names: ["localhost"], addresses: ["127.0.0.1", "127.0.0.2"] }),
      handler: (request, response) => (request.url.startsWith(ASK_PATH) ? people(request, response) : daemons(request, response)),
      onCut: () => undefined,
    });
    t.after(async () => {
      server.close();
      await listener.drain(100);
    });
    return { server, address: listener.addresses[0] ?? "" };
  }

  async function daemon(node: string, { server, address }: Awaited<ReturnType<typeof replica>>, answer: Answer) {
    const stop = new AbortController();
    const token = join(directory, `${node}.token`);
    writeFileSync(token, node);
    const channel = controlChannel({ control: `https://${address}`, root, token });
    const ran = inspection({ node, transport: channel.transport, answer, broken: (error) => broken.push(error) }).run(stop.signal);
    t.after(async () => {
      stop.abort();
      channel.abort();
      await ran;
    });
    await until(`${node} is attached`, () => server.nodes().includes(node));
    return () => {
      stop.abort();
      channel.abort();
    };
  }

  return { replica, daemon, root: authority.roots(), refused, asked, announced, broken };
}

/** Of the second replica, which the first finds by its address alone. */
const PORT = 15_912;

const nothing: Answer = async function* () {
  // knows nothing
};

const flow = (time: number, namespace: string): TimedLine => ({
  time,
  line: { type: "flow", sequence: time, flow: { start: new Date(time).toISOString(), phase: "opened", source: { namespace } } } as never,
});

/** Of records of two namespaces, at these times. */
const records = (...times: number[]): Answer =>
  async function* (question: Question) {
    const namespaces = "pods" in question ? [] : question.namespaces;
    for (const time of times) {
      const namespace = time % 2 === 0 ? "shop" : "bank";
      if (namespaces === null || namespaces.includes(namespace)) yield flow(time, namespace);
    }
  };

type Reply = { readonly status: number; readonly lines: AnswerLine[] };

function ask(
  address: string,
  root: string,
  token: string,
  question: object,
  each?: (line: AnswerLine) => void,
): { done: Promise<Reply>; leave(): void } {
  const session = connect(`https://${address}`, { ca: root, servername: "localhost" });
  session.on("error", () => undefined);
  const stream = session.request({
    ":path": `${ASK_PATH}?${new URLSearchParams({ question: JSON.stringify(question) })}`,
    ...(token === "" ? {} : { [kubernetes.viewerTokenHeader]: token }),
  });
  const done = new Promise<Reply>((resolve, reject) => {
    let [status, text] = [0, ""];
    const lines: AnswerLine[] = [];
    stream.on("response", (headers) => {
      status = Number(headers[":status"]);
    });
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      const parts = (text + chunk).split("\n");
      text = parts.pop() ?? "";
      for (const part of parts.filter((one) => one !== "")) {
        lines.push(JSON.parse(part));
        each?.(JSON.parse(part));
      }
    });
    stream.on("error", reject);
    stream.on("close", () => resolve({ status, lines }));
  }).finally(() => session.destroy());
  return { done, leave: () => session.destroy() };
}

const sequences = ({ lines }: Reply): number[] => lines.flatMap((line) => (line.type === "flow" ? [line.sequence] : []));
const last = ({ lines }: Reply): AnswerLine | undefined => lines.at(-1);

test("an answer has what every node of every replica knows, in the order of time, and says who is missing", async (t) => {
  const all = await mesh(t, ["node-a", "node-b", "node-c", "node-d"]);
  const two = await all.replica("two", () => [], records(7), PORT);
  const one = await all.replica("one", () => [{ name: "two", address: "127.0.0.2" }], records(4));
  await all.daemon("node-a", one, records(1, 5, 9));
  await all.daemon("node-b", one, records(2, 3));
  await all.daemon("node-c", two, records(6, 8));
  const reply = await ask(one.address, all.root, "alice", { about: "flows" }).done;
  assert.equal(reply.status, 200);
  assert.deepEqual(sequences(reply), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.deepEqual(reply.lines.slice(-2), [
    { type: "missing", node: "node-d", reason: "its daemon is attached to no replica of control" },
    { type: "answered", nodes: ["node-a", "node-b", "node-c"] },
  ]);
  const few = await ask(one.address, all.root, "alice", { about: "flows", limit: 2 }).done;
  assert.deepEqual(sequences(few), [1, 2]);
  assert.ok(few.lines.some(({ type }) => type === "cut"));
});

test("edges of all nodes are added up", async (t) => {
  const all = await mesh(t, ["node-a", "node-b"]);
  const group = (count: number): Answer =>
    async function* () {
      yield {
        time: 0,
        line: {
          type: "group",
          time: "2026-01-01T00:00:00.000Z",
          seconds: 10,
          group: { verdict: "denied" },
          failed: count,
          count,
          ended: count,
          bytesSent: 1,
          bytesReceived: 2,
          latency: [count],
        },
      };
    };
  const one = await all.replica("one", () => [], group(4));
  await all.daemon("node-a", one, group(1));
  await all.daemon("node-b", one, group(2));
  const { lines } = await ask(one.address, all.root, "alice", { about: "edges", by: ["verdict"] }).done;
  assert.equal(lines.length, 2);
  const [sum] = lines;
  assert.ok(sum?.type === "group");
  assert.deepEqual([sum.count, sum.failed, sum.bytesReceived, sum.latency], [7, 7, 6, [7]]);
});

test("strangers, pods and whoever asks for another namespace are refused, and daemons' own answers respect the namespaces", async (t) => {
  const all = await mesh(t, ["node-a"]);
  const one = await all.replica("one", () => []);
  await all.daemon("node-a", one, records(1, 2, 3, 4));
  const status = async (token: string, question: object): Promise<number> =>
    (await ask(one.address, all.root, token, question).done).status;
  assert.equal(await status("", { about: "flows" }), 401);
  assert.equal(await status("stranger", { about: "flows" }), 401);
  assert.equal(await status("stranger", { about: "nonsense" }), 401, "strangers are told nothing of questions");
  assert.equal(await status("node-a", { about: "flows" }), 401, "a daemon's token is none for people");
  assert.equal(await status("pod", { about: "flows" }), 403);
  assert.equal(await status("pod", { about: "flows", namespaces: ["shop"] }), 403);
  assert.equal(await status("bob", { about: "flows" }), 403);
  assert.equal(await status("bob", { about: "flows", namespaces: ["shop", "bank"] }), 403);
  assert.equal(await status("bob", { about: "edges", namespaces: ["bank"] }), 403);
  assert.equal(await status("bob", { about: "flows", namespaces: [] }), 400, "no namespace is not every namespace");
  assert.equal(await status("unlucky", { about: "flows" }), 503);
  assert.equal(await status("rightless", { about: "flows" }), 503);
  assert.equal(await status("alice", { about: "flows", filter: "nope ==" }), 400);
  assert.deepEqual(all.asked, [], "nothing was asked of any node");
  assert.deepEqual(sequences(await ask(one.address, all.root, "bob", { about: "flows", namespaces: ["shop"] }).done), [2, 4]);
  assert.match(all.refused.join("\n"), /bob may not get flows.trackbed.dev of namespace bank/);
});

test("frames on the wire of pods are for who may read flows of every namespace that the pods are in", async (t) => {
  const all = await mesh(t, ["node-a"]);
  const counts = {
    frames: 2,
    streams: 1,
    records: 2,
    tlsBytes: 90,
    otherBytes: 0,
    unknownBytes: 0,
    repeatedBytes: 0,
    missedBytes: 0,
    unwatched: 0,
  };
  const watching: Answer = async function* (question) {
    if (question.about !== "frames") return;
    for (const { namespace, name } of question.pods)
      yield { time: 0, line: { type: "frames", node: "node-a", pod: `${namespace}/${name}`, counts: { ...counts, examples: [] } } };
  };
  const one = await all.replica("one", () => []);
  await all.daemon("node-a", one, watching);
  const frames = (...pods: string[]): object => ({
    about: "frames",
    pods: pods.map((pod) => ({ namespace: pod.split("/")[0], name: pod.split("/")[1] })),
  });
  const status = async (token: string, question: object): Promise<number> =>
    (await ask(one.address, all.root, token, question).done).status;
  assert.equal(await status("", frames("shop/web")), 401);
  assert.equal(await status("node-a", frames("shop/web")), 401, "nor may a daemon");
  assert.equal(await status("pod", frames("shop/web")), 403);
  assert.equal(await status("bob", frames("bank/db")), 403, "of another namespace");
  assert.equal(await status("bob", frames("shop/web", "bank/db")), 403, "nor among his own");
  assert.equal(await status("bob", { ...frames("shop/web"), milliseconds: 3_600_000 }), 400, "nobody is watched for long");
  assert.equal(await status("bob", { about: "frames", pods: [] }), 400);
  assert.deepEqual(all.asked, [], "nothing was asked of any node");
  const { lines } = await ask(one.address, all.root, "bob", frames("shop/web")).done;
  assert.deepEqual(
    lines.map((line) => (line.type === "frames" ? `${line.pod} ${line.counts?.records}` : line.type)),
    ["shop/web 2", "answered"],
  );
});

test("a recording needs its own right in the namespace of every pod, is announced first, and goes to the node that has the pod", async (t) => {
  const all = await mesh(t, ["node-a", "node-b"]);
  const seen: Question[] = [];
  const recorder = (node: string, pod: string): Answer =>
    async function* (question) {
      seen.push(question);
      if (question.about === "recording" && question.pods.some(({ name }) => name === pod))
        yield { time: 0, line: { type: "recorded", node, line: { type: "ended", why: "time" } } };
    };
  const one = await all.replica("one", () => []);
  await all.daemon("node-a", one, recorder("node-a", "web"));
  await all.daemon("node-b", one, recorder("node-b", "api"));
  const recording = (...pods: string[]): object => ({
    about: "recording",
    pods: pods.map((pod) => ({ namespace: pod.split("/")[0], name: pod.split("/")[1] })),
    limitBytes: 1,
    limitMilliseconds: 1,
  });
  const status = async (token: string, question: object): Promise<number> =>
    (await ask(one.address, all.root, token, question).done).status;
  assert.equal(await status("", recording("shop/web")), 401);
  assert.equal(await status("node-a", recording("shop/web")), 401, "nor may a daemon");
  assert.equal(await status("pod", recording("shop/web")), 403);
  assert.equal(await status("alice", recording("shop/web")), 403, "who may read everything may not record");
  assert.equal(await status("bob", recording("shop/web")), 403);
  assert.equal(await status("carol", recording("bank/web")), 403, "of another namespace");
  assert.equal(await status("carol", recording("shop/web", "bank/web")), 403);
  assert.equal(await status("carol", recording("shop/nobody")), 503, "what cannot be announced does not begin");
  assert.equal(await status("carol", { ...recording("shop/web"), limitBytes: 0 }), 400);
  assert.deepEqual([seen, all.announced], [[], []], "no node was asked, and nobody told");
  const { lines } = await ask(one.address, all.root, "carol", { ...recording("shop/web"), by: "alice" }).done;
  assert.deepEqual(lines, [
    { type: "recorded", node: "node-a", line: { type: "ended", why: "time" } },
    { type: "answered", nodes: ["node-a", "node-b"] },
  ]);
  assert.deepEqual(all.announced, ["carol shop/web"]);
  assert.deepEqual(new Set(seen.map((question) => (question.about === "recording" ? question.by : ""))), new Set(["carol"]));
  assert.match(all.refused.join("\n"), /carol may not create recordings.trackbed.dev in namespace bank/);
});

test("who leaves ends the search on every node, on both replicas", async (t) => {
  const all = await mesh(t, ["node-a", "node-b"]);
  const running = new Set<string>();
  const endless = (node: string): Answer =>
    async function* (_question, stop) {
      running.add(node);
      try {
        yield flow(1, "shop");
        await new Promise((resolve) => stop.addEventListener("abort", resolve, { once: true }));
      } finally {
        running.delete(node);
      }
    };
  const two = await all.replica("two", () => [], nothing, PORT);
  const one = await all.replica("one", () => [{ name: "two", address: "127.0.0.2" }], nothing);
  await all.daemon("node-a", one, endless("node-a"));
  await all.daemon("node-b", two, endless("node-b"));
  let seen = 0;
  const { done, leave } = ask(one.address, all.root, "alice", { about: "flows", follow: true }, () => seen++);
  await until("both nodes told something", () => seen === 2);
  assert.deepEqual([...running].sort(), ["node-a", "node-b"]);
  leave();
  await done.catch(() => undefined); // the connection was cut by ourselves
  await until("nobody searches any more", () => running.size === 0);
});

test("a reader who takes nothing does not fill control: the node waits", async (t) => {
  const all = await mesh(t, ["node-a"]);
  let told = 0;
  const flood: Answer = async function* (_question, stop) {
    const text = "x".repeat(1000);
    for (; !stop.aborted; told++) yield { time: told, line: { type: "malformed", sequence: told, fault: text } };
  };
  const one = await all.replica("one", () => []);
  await all.daemon("node-a", one, flood);
  const session = connect(`https://${one.address}`, { ca: all.root, servername: "localhost" });
  t.after(() => session.destroy());
  const stream = session.request({
    ":path": `${ASK_PATH}?${new URLSearchParams({ question: JSON.stringify({ about: "flows", follow: true }) })}`,
    [kubernetes.viewerTokenHeader]: "alice",
  });
  await new Promise((resolve) => stream.once("response", resolve));
  let before = -1;
  await until("the flood stands still", () => {
    const still = told > 0 && told === before;
    before = told;
    return still;
  });
  assert.ok(told < 20_000, `${told} lines were made for nobody`);
});

test("a daemon that goes away, or is silent, is named as missing", async (t) => {
  const all = await mesh(t, ["node-a", "node-b"]);
  const one = await all.replica("one", () => [{ name: "two", address: "127.0.0.9" }]);
  const stop = await all.daemon("node-a", one, async function* (_question, stop) {
    yield flow(1, "shop");
    await new Promise((resolve) => stop.addEventListener("abort", resolve, { once: true }));
  });
  await all.daemon("node-b", one, async function* () {
    yield flow(2, "shop");
    throw new Error("the disk is gone");
  });
  const told = Promise.withResolvers<unknown>();
  const { done } = ask(one.address, all.root, "alice", { about: "flows" }, told.resolve);
  await told.promise;
  stop();
  const reply = await done;
  assert.deepEqual(sequences(reply).sort(), [1, 2]);
  assert.deepEqual(reply.lines.flatMap((line) => (line.type === "missing" ? [line.node] : [])).sort(), ["node-a", "node-b", "replica two"]);
  assert.deepEqual(last(reply), { type: "answered", nodes: [] });
});
