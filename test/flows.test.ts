// What was said between pods is counted exactly, told by fields, there again after a restart of the daemon, and proven to be mutual TLS.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { paths, ports } from "#contract/tables.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import type { AnswerLine, EdgesQuestion, FlowsQuestion, GroupRow } from "#inspect/question.ts";
import { verified, type Wire } from "../src/cli/verify.ts";
import { get } from "../src/lab/mesh.ts";
import { until } from "../src/lab/until.ts";
import { address, LOAD, SERVER_PORT, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";

const DENY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny-neighbour, namespace: app }
spec:
  action: DENY
  selector: { matchLabels: { app: server } }
  rules: [{ from: [{ source: { principals: ["cluster.local/ns/app/sa/neighbour"] } }] }]
`;
const TIMES = { tunnel: 7, denied: 3, plain: 2 };

let mesh: TestMesh;
/** Attempts until the policy held. */
let early = { allowed: 0, denied: 0 };

before(async () => {
  mesh = await startTestMesh();
  mesh.document("deny.yaml", DENY);
  const to = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
  await until("the policy holds", async () => {
    const { ok } = await tryConnect(mesh.lab.pod("app/neighbour"), to);
    early = { allowed: early.allowed + Number(ok), denied: early.denied + Number(!ok) };
    return !ok;
  });
});
after(() => mesh?.stop());

async function ask(node: string, question: Partial<EdgesQuestion> | Partial<FlowsQuestion>): Promise<AnswerLine[]> {
  const socketPath = join(mesh.lab.node(node).runDirectory, paths.adminSocket);
  const text = await get({ socketPath }, `/v1/ask?${new URLSearchParams({ question: JSON.stringify(question) })}`);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as AnswerLine);
}

const groups = async (node: string, question: Partial<EdgesQuestion>): Promise<GroupRow[]> =>
  (await ask(node, { about: "edges", ...question })).filter((line) => line.type === "group");

/** Of connections that arrived at node-b, by who made them. */
const arrived = async (): Promise<Record<string, number>> => {
  const rows = await groups("node-b", { by: ["source.workload", "verdict"], filter: "destination.workload == server" });
  return Object.fromEntries(rows.map(({ group, count }) => [`${group["source.workload"]} ${group["verdict"]}`, count]));
};

test("every connection is counted once, by who made it and what became of it, also after the daemon was started again", async () => {
  const { lab } = mesh;
  const to = `${address(lab.pod("app/server"))}:${SERVER_PORT}`;
  for (let i = 0; i < TIMES.tunnel; i++) assert.ok((await tryConnect(lab.pod("app/client"), to)).ok);
  for (let i = 0; i < TIMES.denied; i++) assert.ok(!(await tryConnect(lab.pod("app/neighbour"), to)).ok);
  for (let i = 0; i < TIMES.plain; i++) assert.ok((await tryConnect(lab.pod("legacy/outsider"), to)).ok);
  const expected = {
    "client allowed": TIMES.tunnel,
    "neighbour denied": TIMES.denied + early.denied,
    "outsider allowed": TIMES.plain,
    ...(early.allowed === 0 ? {} : { "neighbour allowed": early.allowed }),
  };
  let last: unknown;
  const counted = (what: string): Promise<unknown> =>
    until(
      what,
      async () => {
        const now = await arrived();
        last = now;
        return isDeepStrictEqual(now, expected);
      },
      15_000,
      () => JSON.stringify({ expected, last }),
    );
  await counted("all are counted");
  const [refused] = await groups("node-b", { by: ["policy", "code", "source.identity"], filter: "verdict == denied" });
  assert.deepEqual(refused?.group, {
    policy: "app/deny-neighbour",
    code: "E_POLICY_DENIED",
    "source.identity": "spiffe://cluster.local/ns/app/sa/neighbour",
  });

  await lab.stopNode("node-b");
  assert.equal(statSync(join(lab.node("node-b").runDirectory, "ledger.db")).mode & 0o777, 0o600);
  await lab.startNode("node-b");
  await lab.ready();
  await counted("and still are");
});

test("what the source saw is not counted a second time, and what never arrived is counted at the source", async () => {
  const toTold = { by: ["destination.workload"], filter: "source.workload == client" };
  // An engine tells of its edges every 2 s.
  await until("the source has told of them", async () => {
    const [atSource] = await groups("node-a", { ...toTold, once: false });
    return (atSource?.count ?? 0) >= TIMES.tunnel;
  });
  assert.deepEqual(await groups("node-a", toTold), [], "node-b has counted it");
  const nowhere = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT + 7}`;
  assert.ok(!(await tryConnect(mesh.lab.pod("app/client"), nowhere)).ok);
  await until("the failure is counted", async () => {
    const rows = [
      ...(await groups("node-a", { ...toTold, filter: "port == 9007" })),
      ...(await groups("node-b", { ...toTold, filter: "port == 9007" })),
    ];
    return rows.reduce((sum, { failed }) => sum + failed, 0) > 0;
  });
});

/** From outside of the mesh; its end does not matter. */
const sendPlain = (host: string, port: number, text: string): Promise<unknown> => {
  const script = `require("net").connect(${port}, "${host.replace(/[[\]]/g, "")}", function () { this.end(${JSON.stringify(text)}) }).on("error", () => {}).resume()`;
  return mesh.lab.pod("legacy/outsider").exec([process.execPath, "-e", script], { timeoutMs: 10_000 });
};

test("what is on the wire of a pod's tunnels is TLS to the byte, and plaintext to the tunnels' port is seen as what it is", async () => {
  const server = mesh.lab.pod("app/server");
  /** What was on the wire of the server while `act` ran. */
  async function watched(act: () => Promise<unknown>, between: readonly string[] = []): Promise<Wire> {
    const question = { about: "frames", pods: [{ namespace: "app", name: "server" }], between, milliseconds: 2000 };
    const socketPath = join(mesh.lab.node("node-b").runDirectory, paths.adminSocket);
    const path = `/v1/ask?${new URLSearchParams({ question: JSON.stringify(question) })}`;
    const response = await new Promise<IncomingMessage>((resolve, reject) =>
      request({ socketPath, path }, resolve).once("error", reject).end(),
    );
    let acted: Promise<unknown> = Promise.resolve();
    let counts: Wire | null = null;
    for await (const text of createInterface({ input: response })) {
      const line = JSON.parse(text) as AnswerLine;
      if (line.type === "frames" && line.counts === null) acted = act();
      if (line.type === "frames" && line.counts !== null) counts = { node: line.node, pod: line.pod, ...line.counts };
    }
    await acted;
    return counts ?? assert.fail("nothing was counted");
  }
  const good = await watched(
    () => mesh.lab.pod("app/client").run([LOAD, "bulk", `${address(server)}:${SERVER_PORT}`, "--seconds", "1"], { timeoutMs: 20_000 }),
    [address(mesh.lab.pod("app/client")), address(server)].map((one) => one.replace(/[[\]]/g, "")),
  );
  assert.ok(good.records > 100 && good.tlsBytes > 1e6, JSON.stringify(good));
  assert.equal(good.otherBytes, 0, JSON.stringify(good));
  const text = "GET / HTTP/1.1\r\nhost: server\r\n\r\n";
  const bad = await watched(() => sendPlain(address(server), ports.hbone, text));
  assert.equal(bad.otherBytes, text.length, JSON.stringify(bad));
  assert.match(bad.examples.join(), new RegExp(`→ .*:${ports.hbone}`));
  assert.equal(verified([], [], [good]).proven, null, "frames alone say nothing of who talks");
});

test("records answer to the same filters, and are proof of mutual TLS for the one pair and not for the other", async () => {
  const records = async (source: string): Promise<FlowRecord[]> => {
    const filter = `source.workload == ${source} && destination.workload == server && verdict == allowed`;
    const lines = [...(await ask("node-a", { about: "flows", filter })), ...(await ask("node-b", { about: "flows", filter }))];
    return lines.flatMap((line) => (line.type === "flow" ? [line.flow] : []));
  };
  const to = `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`;
  for (const name of ["app/client", "legacy/outsider"]) assert.ok((await tryConnect(mesh.lab.pod(name), to)).ok);
  const seen = await until("both nodes tell of it", async () => {
    const found = await records("client");
    return found.some(({ direction }) => direction === "inbound") && found.some(({ direction }) => direction === "outbound") ? found : null;
  });
  const good = verified(seen, []);
  assert.equal(good.proven, true, JSON.stringify(good.against));
  assert.deepEqual(new Set(good.ways.map(({ path }) => path)), new Set(["tunnel"]));
  for (const { tls, serials, seenAt, source, destination } of good.ways) {
    assert.match(tls, /^TLSv1\.3 TLS13_\S+ X25519MLKEM768$/);
    // The server's engine was started again, with another certificate; what node-a tells may be of both.
    assert.ok(serials.length === 1 || (seenAt === "source" && serials.length === 2), serials.join());
    assert.deepEqual(
      [source, destination].map((identity) => identity.split("/sa/")[1]),
      ["client", "server"],
    );
  }
  const bad = verified(
    await until("the outsider is told of", async () => ((await records("outsider")).length > 0 ? records("outsider") : null)),
    [],
  );
  assert.equal(bad.proven, false);
  assert.match(bad.against[0]?.why ?? "", /plain/);
  assert.equal(verified([], []).proven, null, "nothing seen is no proof");
  assert.equal(verified(seen, [{ node: "node-x", reason: "away" }]).proven, false, "nor is a part");
});
