// The command line as a script sees it: exit codes, what it prints where, and what it says when something is wrong.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { answering } from "#inspect/answer.ts";
import type { FlowLine } from "#inspect/flow.ts";
import { streamAnswer } from "#inspect/flow-stream.ts";
import type { NodeStatus, PodStatus } from "#inspect/status.ts";

const MAIN = join(import.meta.dirname, "main.ts");
const directory = mkdtempSync(join(tmpdir(), "trackbed-cli-"));
after(() => rmSync(directory, { recursive: true }));

type Ran = { code: number | null; stdout: string; stderr: string };

async function trackbed(...args: string[]): Promise<Ran> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, NO_COLOR: "1", TRACKBED_RUN: join(directory, "nobody") },
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  await once(child, "close");
  return { code: child.exitCode, stdout, stderr };
}

const pod = (name: string, change: Partial<PodStatus> = {}): PodStatus => ({
  uid: `shop-${name}`,
  namespace: "shop",
  name,
  serviceAccount: name,
  identity: `spiffe://cluster.local/ns/shop/sa/${name}`,
  addresses: ["10.0.0.1"],
  desired: "enrolled",
  phase: "ready",
  netnsCookie: "7",
  engine: { listening: true, identity: true, policy: true, certificateNotAfter: null },
  connections: 3,
  notMeshed: 0,
  problem: null,
  ...change,
});

const connected = { connected: true, since: "2026-01-01T00:00:00.000Z", problem: null };

const node = (name: string, pods: PodStatus[]): NodeStatus => ({
  node: name,
  version: "0.1.0",
  trustDomain: "cluster.local",
  started: "2026-01-01T00:00:00.000Z",
  time: "2026-01-01T00:00:01.000Z",
  ready: true,
  engine: { ...connected, version: "0.1.0", instance: "a", generation: "4", acknowledged: "4", rejected: [], counters: {} },
  control: connected,
  state: { from: "control", resources: 12 },
  source: [],
  flows: { received: 0, droppedByEngine: 0, kept: 0 },
  pods,
});

/** An admin socket that answers as a daemon does; returns its run directory. */
async function daemon(status: NodeStatus, flows: FlowLine[] = []): Promise<string> {
  const run = mkdtempSync(join(directory, "run-"));
  const answer = answering(status.node, {
    flows: {
      read: async function* () {
        yield* flows;
      },
    },
    ledger: null,
    record: null,
  });
  const server = createServer((req, res) => {
    const found = status.pods.find(({ namespace, name }) => req.url === `/v1/pods/${namespace}/${name}`);
    if (req.url === "/v1/status") res.end(JSON.stringify(status));
    else if (req.url?.startsWith("/v1/ask")) void streamAnswer(new URL(req.url, "http://admin"), res, answer);
    else if (found !== undefined) {
      const observed = { rules: "equal", routing: true, foreign: null, proof: "proven", handedOver: true, draining: false };
      res.end(
        JSON.stringify({
          ...found,
          node: status.node,
          netnsPath: "/run/netns/x",
          observed,
          nextStep: "none",
          steps: [],
          rulesDifference: [],
          warnings: ["annotation x is not honoured"],
        }),
      );
    } else res.writeHead(404).end(JSON.stringify({ code: "E_USAGE", message: "no such pod", next: "" }));
  }).listen(join(run, "admin.sock"));
  await once(server, "listening");
  after(() => server.close());
  return run;
}

test("a wrong command line exits 64 and says what was expected", async () => {
  for (const [args, expected] of [
    [["frobnicate"], /expected one of: demo, status, flows/],
    [["status", "-o", "xml"], /Allowed choices are text, json/],
    [["status", "--loud"], /unknown option '--loud'/],
    [["explain"], /missing required argument 'what'/],
    [["explain", "web"], /expected pod\/NAME or pod\/NAMESPACE\/NAME, got "web"/],
    [["explain", "pod/web", "-n", "Not A Name"], /not the name of a namespace/],
    [["exec", "pod/web"], /missing required argument 'command'/],
    [[], /Usage: trackbed/],
  ] as const) {
    const { code, stdout, stderr } = await trackbed(...args);
    assert.equal(code, 64, args.join(" "));
    assert.match(stderr, expected);
    assert.equal(stdout, "");
  }
});

test("help and version exit 0", async () => {
  assert.match((await trackbed("--help")).stdout, /Exit codes: 0 fine/);
  assert.match((await trackbed("version")).stdout, /^trackbed \d+\.\d+\.\d+ \(contract 1/);
});

test("without a daemon every question exits 69 and names where it looked", async () => {
  for (const command of [["status"], ["flows"], ["explain", "pod/web"]]) {
    const { code, stderr } = await trackbed(...command);
    assert.equal(code, 69, command.join(" "));
    assert.match(stderr, /nobody\/admin\.sock/);
  }
  const { code, stderr } = await trackbed("status", "-o", "json");
  assert.equal(code, 69);
  assert.equal((JSON.parse(stderr) as { error: { code: string } }).error.code, "E_DAEMON_AWAY");
});

test("status exits 0 when all is as desired and lists the pods of every node", async () => {
  const runs = [await daemon(node("node-a", [pod("web")])), await daemon(node("node-b", [pod("api")]))];
  const { code, stdout } = await trackbed("status", ...runs.flatMap((run) => ["--run", run]));
  assert.equal(code, 0);
  assert.match(stdout, /shop\/web +node-a +ready +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +3/);
  assert.match(stdout, /shop\/api +node-b/);
  assert.ok(!stdout.includes("\x1b"), "no colour where nobody sees it");
});

test("status exits 1 and says why and what to do when a pod is not ready, a node is away or control is", async () => {
  const problem = {
    code: "E_IDENTITY_REFUSED",
    reason: "the authority said no",
    next: "look at control",
    since: "2026-01-01T00:00:00.000Z",
  } as const;
  const sick = await daemon(node("node-a", [pod("web", { phase: "captured", problem })]));
  const { code, stdout } = await trackbed("status", "--run", sick);
  assert.equal(code, 1);
  assert.match(stdout, /captured .* E_IDENTITY_REFUSED/);
  assert.match(stdout, /the authority said no \(E_IDENTITY_REFUSED\)\n +next: look at control/);

  const well = await daemon(node("node-a", [pod("web")]));
  const half = await trackbed("status", "-o", "json", "--run", well, "--run", join(directory, "gone"));
  assert.equal(half.code, 1);
  const answer = JSON.parse(half.stdout) as { healthy: boolean; nodes: unknown[]; unreachable: { run: string }[] };
  assert.deepEqual([answer.healthy, answer.nodes.length, answer.unreachable[0]?.run], [false, 1, join(directory, "gone")]);

  const cut = await daemon({ ...node("node-a", []), control: { ...connected, connected: false } });
  assert.equal((await trackbed("status", "--run", cut)).code, 1);
});

test("explain finds a pod by its name on any node, asks when two have it, and lists what there is when none has", async () => {
  const runs = [await daemon(node("node-a", [pod("web")])), await daemon(node("node-b", [pod("api"), pod("web", { namespace: "other" })]))];
  const where = runs.flatMap((run) => ["--run", run]);
  assert.match((await trackbed("explain", "pod/api", ...where)).stdout, /rules +equal[\s\S]*annotation x is not honoured/);
  const both = await trackbed("explain", "pod/web", ...where);
  assert.equal(both.code, 64);
  assert.match(both.stderr, /is in shop and other/);
  const one = await trackbed("explain", "pod/web", "-n", "other", "-o", "json", ...where);
  assert.equal((JSON.parse(one.stdout) as PodStatus).namespace, "other");
  const none = await trackbed("explain", "pod/cache", ...where);
  assert.equal(none.code, 1);
  assert.match(none.stderr, /there are: other\/web, shop\/api, shop\/web/);
});

test("flows of several nodes come in the order of time, and what was dropped is told", async () => {
  const end = { address: "10.0.0.1", port: 80, pod: "web-1", workload: "web", namespace: "shop", identity: null, node: "node-a" };
  const flow = (start: string, verdict: "allowed" | "denied"): FlowLine => ({
    type: "flow",
    sequence: 1,
    flow: {
      id: "1",
      phase: "closed",
      direction: "outbound",
      path: "tunnel",
      verdict,
      policy: "shop/p",
      rule: 2,
      code: verdict === "denied" ? "E_POLICY_DENIED" : null,
      reason: null,
      start,
      source: end,
      destination: end,
      service: null,
      bytesSent: 5,
      bytesReceived: 6,
      connectMicroseconds: 0,
      handshakeMicroseconds: 0,
      firstByteMicroseconds: 0,
      durationMicroseconds: 0,
      tls: null,
      protocol: "http/1.1",
      serverName: null,
      closedBy: "client",
      reset: false,
      responseFlags: null,
      podUid: "u",
      request: null,
      audit: null,
    },
  });
  const runs = [
    await daemon(node("node-a", []), [flow("2026-01-01T00:00:03.000Z", "allowed"), { type: "dropped", count: 9 }]),
    await daemon(node("node-b", []), [
      flow("2026-01-01T00:00:02.000Z", "denied"),
      { type: "malformed", sequence: 7, fault: "unknown phase 0" },
    ]),
  ];
  const where = runs.flatMap((run) => ["--run", run]);
  const { code, stdout } = await trackbed("flows", ...where);
  assert.equal(code, 0);
  assert.match(stdout, /9 records are missing[\s\S]*00:02\.000Z.*denied.*E_POLICY_DENIED: shop\/p rule 2[\s\S]*00:03\.000Z/);
  assert.match(stdout, /record 7 cannot be read: unknown phase 0 +E_CONTRACT_VERSION/);
  const json = await trackbed("flows", "-o", "json", "--verdict", "denied", "-n", "shop", ...where);
  assert.deepEqual(
    json.stdout
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as FlowLine).type),
    ["dropped", "malformed", "flow"],
  );
});

test("flows --follow outlives its daemon: it says that it waits, and goes on with the successor", async () => {
  const run = mkdtempSync(join(directory, "run-"));
  /** A daemon that tells of `count` dropped records and stays. */
  const serve = async (count: number) => {
    const server = createServer((_, res) => void res.write(`${JSON.stringify({ type: "dropped", count } satisfies FlowLine)}\n`));
    await once(server.listen(join(run, "admin.sock")), "listening");
    return server;
  };
  const first = await serve(1);
  const child = spawn(process.execPath, [MAIN, "flows", "--follow", "-o", "json", "--run", run], { stdio: ["ignore", "pipe", "pipe"] });
  after(() => child.kill("SIGKILL"));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const told = createInterface({ input: child.stderr })[Symbol.asyncIterator]();
  const count = async (): Promise<unknown> => (JSON.parse(String((await lines.next()).value)) as { count: number }).count;
  assert.equal(await count(), 1);
  first.closeAllConnections();
  first.close();
  assert.match(String((await told.next()).value), /ended; waiting for it to come back/);
  const second = await serve(2);
  assert.equal(await count(), 2);
  assert.match(String((await told.next()).value), /is back/);
  child.kill("SIGTERM");
  await once(child, "close");
  assert.equal(child.exitCode, 0);
  second.closeAllConnections();
  second.close();
});
