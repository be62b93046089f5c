// What the demo claims, each claim with the code that finds out whether it is true. In this order: later checks build on earlier ones.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ports } from "#contract/tables.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import type { Capture, Lab, PodPlace } from "../../lab/api.ts";
import { OUTSIDE_NAME } from "../../lab/lab.ts";
import { holds, notTls, type Stream, tcpStreams } from "../../lab/pcap.ts";
import { countQueued } from "../../lab/queued.ts";
import { until } from "../../lab/until.ts";
import type { FlowLog } from "./flowLog.ts";
import { limitHolds, outlierLeavesAndReturns, tokenIsAsked } from "./guards.ts";
import { leastHolds } from "./least.ts";
import { denyTicker, peerAuthentication } from "./policies.ts";
import type { Probe } from "./probe.ts";
import { canaryShifts, retryHides } from "./routes.ts";
import { openTicks } from "./ticks.ts";
import type { WorkingCopy } from "./workingCopy.ts";

export type Demo = {
  readonly lab: Lab;
  readonly copy: WorkingCopy;
  readonly flows: FlowLog;
  /** Everything between the nodes since before the mesh came up. */
  readonly wire: Capture;
  /** Text sent through the mesh, and text sent beside it by the outsider. */
  readonly sent: { readonly meshed: string[]; readonly plain: string[] };
};

export type Check = {
  readonly claim: string;
  /** Resolves with what was measured, rejects with what was wrong. */
  readonly run: (demo: Demo) => Promise<string>;
};

const identity = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`;
const CUT_WITHIN_MS = 1000;
const GREETED_WITHIN_MS = 1000;
const SERVED_WITHIN_MS = 300;
const REPAIRED_WITHIN_MS = 1000;
const PROPAGATION_MS = 3000;

function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

const curl = (pod: PodPlace, url: string, ...options: string[]): Promise<string> =>
  pod.run(["curl", "-sS", "--fail-with-body", "--max-time", "5", ...options, url]);

const getsThrough = async (pod: PodPlace, url: string): Promise<boolean> =>
  (await pod.exec(["curl", "-sS", "--fail", "--max-time", "2", "-o", "/dev/null", url])).code === 0;

const ms = (value: number): string => `${Math.round(value)} ms`;

/** An order with a note that nobody else sends, whose answer must come back through web, api, cache and receipts. */
async function order(pod: PodPlace, notes: string[], ...options: string[]): Promise<number> {
  const note = randomUUID();
  notes.push(note);
  const answer = JSON.parse(await curl(pod, `http://web.shop/order?note=${note}`, ...options)) as Record<string, unknown>;
  assert(answer["note"] === note && typeof answer["order"] === "number", `web answered ${JSON.stringify(answer)}`);
  assert(String(answer["receipt"]).startsWith("250 "), `no receipt: ${JSON.stringify(answer)}`);
  return answer["order"];
}

const between = (source: string, destination: string, path: FlowRecord["path"]) => (flow: FlowRecord) =>
  flow.source.identity === identity(source) &&
  flow.destination.identity === identity(destination) &&
  flow.path === path &&
  flow.verdict === "allowed";

export const checks: readonly Check[] = [
  {
    claim: "requests flow through nginx, the API, Redis and SMTP, over IPv4 and IPv6",
    async run({ lab, sent }) {
      const shopper = lab.pod("shopper");
      const first = await order(shopper, sent.meshed, "-4");
      const second = await order(shopper, sent.meshed, "-6");
      assert(second > first, `order ${second} after order ${first}`);
      return `orders ${first} and ${second}`;
    },
  },
  {
    claim: "a pod outside the mesh still gets in where policy is PERMISSIVE",
    run: async ({ lab, sent }) => `order ${await order(lab.pod("outsider"), sent.plain)}`,
  },
  { claim: `the wire between the nodes holds only TLS on ${ports.hbone}; the payload is not found`, run: searchWire },
  {
    claim: "whose identity called whom is known and proven",
    async run({ flows }) {
      const tunnel = await flows.find("web calling api by a tunnel", between("web", "api", "tunnel"));
      assert(tunnel.tls?.version === "TLSv1.3", `TLS is ${JSON.stringify(tunnel.tls)}`);
      await flows.find("api calling cache on its own node by a relay", between("api", "cache", "relay"));
      return `${identity("web")} → ${identity("api")}, ${tunnel.tls.cipher}`;
    },
  },
  {
    claim: "the cache answers the API and refuses everyone else",
    async run({ lab, flows }) {
      const since = flows.mark();
      const { stdout } = await lab.pod("shopper").exec(["bash", "-c", "exec 3<>/dev/tcp/cache/6379 && echo PING >&3 && head -c 5 <&3"]);
      assert(!stdout.includes("PONG"), "the cache answered the shopper");
      const isRefusal = (flow: FlowRecord): boolean =>
        flow.verdict === "denied" && flow.source.identity === identity("shopper") && flow.destination.pod === "cache";
      const { code, policy } = await flows.find("shopper refused by cache", isRefusal, since);
      return [code, policy].filter((text) => text !== null).join(" by ");
    },
  },
  { claim: "a DENY written into the YAML cuts a live connection within a second and is named", run: denyCuts },
  { claim: "STRICT turns the outsider away, PERMISSIVE lets it in again", run: strictTurnsAway },
  { claim: "a label takes a pod out of the mesh and in again without losing its open connection", run: outAndIn },
  {
    claim: "a server that speaks first (SMTP) is heard within a second",
    async run({ lab }) {
      const begun = performance.now();
      const greeting = await lab.pod("api").run(["bash", "-c", "head -n 1 < /dev/tcp/receipts/25"]);
      const took = performance.now() - begun;
      assert(greeting.startsWith("220 "), `the greeting is ${JSON.stringify(greeting)}`);
      assert(took < GREETED_WITHIN_MS, `it took ${ms(took)}`);
      return `${greeting.trim()} after ${ms(took)}`;
    },
  },
  { claim: "a weight in the YAML shifts requests from one version to the other, and none is lost", run: canaryShifts },
  { claim: "a retry hides a pod that fails", run: retryHides },
  { claim: "a pod that fails is left out, and asked again when it is well", run: outlierLeavesAndReturns },
  { claim: "a rate limit admits exactly as many requests as it says", run: limitHolds },
  { claim: "a token is asked for at the waypoint, and nobody gets past it", run: tokenIsAsked },
  { claim: "names of the mesh are answered with the DNS server away, other names by that server", run: dnsAnswers },
  { claim: "rules deleted by somebody else are back within a second", run: rulesComeBack },
  { claim: "the least policy for what was seen, made by generate, lets it go on and refuses the rest", run: leastHolds },
  { claim: "an engine's worker is killed: no new connection is refused", run: workerDies },
];

async function searchWire({ lab, wire, sent }: Demo): Promise<string> {
  await wire.stop();
  const file = readFileSync(wire.file);
  for (const note of sent.meshed) assert(!holds(file, note), `the note ${note} is on the wire in clear`);
  for (const note of sent.plain) assert(holds(file, note), "the search does not find the outsider's note, which is there in clear");
  const meshed = new Set(
    lab.pods.filter(({ namespace }) => namespace === "shop").flatMap(({ ips }) => ips.filter((ip) => !ip.includes(":"))),
  );
  const between = tcpStreams(file).filter(({ source, destination }) => meshed.has(source) && meshed.has(destination));
  const isTunnel = ({ sourcePort, destinationPort }: Stream): boolean => sourcePort === ports.hbone || destinationPort === ports.hbone;
  const clear = between.find((stream) => !isTunnel(stream));
  assert(
    clear === undefined,
    `bytes between meshed pods beside the tunnel: ${clear?.source} → ${clear?.destination}:${clear?.destinationPort}`,
  );
  assert(between.length > 0, "no tunnel was seen on the wire");
  for (const stream of between) {
    const why = notTls(stream);
    assert(why === null, `${stream.source}:${stream.sourcePort} → ${stream.destination}:${stream.destinationPort} is not TLS: ${why}`);
  }
  const bytes = between.reduce((sum, stream) => sum + stream.bytes.length, 0);
  return `${between.length} streams, ${bytes} bytes, TLS throughout; the outsider's plain note was found`;
}

async function denyCuts({ lab, copy, flows }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  const ticks = await openTicks(shopper, "http://ticker/");
  try {
    await ticks.more(5);
    const since = flows.mark();
    const begun = performance.now();
    copy.write("90-demo-deny.yaml", denyTicker);
    const took = (await ticks.ended(PROPAGATION_MS)) - begun;
    assert(took < CUT_WITHIN_MS, `the connection was cut only after ${ms(took)}`);
    const named = (flow: FlowRecord): boolean => flow.verdict === "denied" && flow.policy === "shop/demo-no-ticker";
    await flows.find("the cut connection, naming shop/demo-no-ticker", named, since);
    assert(!(await getsThrough(shopper, "http://ticker/ready")), "a new connection got through the DENY");
    return `cut ${ms(took)} after the file was written, by shop/demo-no-ticker`;
  } finally {
    ticks.stop();
    copy.write("90-demo-deny.yaml", null);
    await until("the shopper reaches the ticker again", () => getsThrough(shopper, "http://ticker/ready"), PROPAGATION_MS);
  }
}

async function strictTurnsAway({ lab, copy, flows }: Demo): Promise<string> {
  const [outsider, url] = [lab.pod("outsider"), "http://web.shop/ready"];
  try {
    const since = flows.mark();
    copy.write("91-demo-mtls.yaml", peerAuthentication("STRICT"));
    await until("the outsider is turned away", async () => !(await getsThrough(outsider, url)), PROPAGATION_MS);
    const isStrict = (flow: FlowRecord): boolean => flow.verdict === "denied" && flow.code === "E_POLICY_STRICT";
    const { policy, code } = await flows.find("the outsider refused for being plain", isStrict, since);
    assert(await getsThrough(lab.pod("shopper"), url), "STRICT turned the shopper away too");
    copy.write("91-demo-mtls.yaml", peerAuthentication("PERMISSIVE"));
    await until("the outsider is let in again", () => getsThrough(outsider, url), PROPAGATION_MS);
    return `${code}${policy === null ? "" : ` by ${policy}`}`;
  } finally {
    copy.write("91-demo-mtls.yaml", null);
  }
}

async function outAndIn({ lab, copy, flows }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  const phase = async (): Promise<string | undefined> =>
    (await lab.status(shopper.node)).pods.find(({ name, namespace }) => name === "shopper" && namespace === "shop")?.phase;
  const ticks = await openTicks(shopper, "http://ticker/");
  try {
    await ticks.more(3);
    let since = flows.mark();
    copy.setMeshLabel("20-shopper.yaml", "shopper", "disabled");
    await until("the shopper is out of the mesh", async () => ["leaving", "absent", undefined].includes(await phase()), PROPAGATION_MS);
    assert(await getsThrough(shopper, "http://web/ready"), "the shopper reaches nothing outside the mesh");
    const plain = (flow: FlowRecord): boolean =>
      flow.direction === "inbound" && shopper.ips.includes(flow.source.address) && flow.path === "plain";
    await flows.find("the shopper calling web in plain TCP", (flow) => plain(flow) && flow.source.identity === null, since);
    await ticks.more(3);
    copy.setMeshLabel("20-shopper.yaml", "shopper", null);
    await until("the shopper is in the mesh again", async () => (await phase()) === "ready", PROPAGATION_MS);
    since = flows.mark();
    assert(await getsThrough(shopper, "http://web/ready"), "the shopper reaches nothing inside the mesh");
    await flows.find("the shopper calling web as itself", between("shopper", "web", "relay"), since);
    await ticks.more(3);
    ticks.assertUnbroken();
    return `${ticks.count()} ticks of one connection, none lost`;
  } finally {
    ticks.stop();
    copy.setMeshLabel("20-shopper.yaml", "shopper", null);
  }
}

async function dnsAnswers({ lab }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  const lookUp = (name: string, database: string): Promise<string> => shopper.run(["getent", database, name], { timeoutMs: 3000 });
  const outside = await lookUp(OUTSIDE_NAME, "ahostsv4");
  assert(
    lab.underlay.ips.some((ip) => outside.startsWith(`${ip} `)),
    `${OUTSIDE_NAME} is ${JSON.stringify(outside)}`,
  );
  lab.signalDns("SIGSTOP");
  try {
    const begun = performance.now();
    const [v4, v6] = [await lookUp("api", "ahostsv4"), await lookUp("api.shop.svc.cluster.local.", "ahostsv6")];
    const took = performance.now() - begun;
    assert(v4.startsWith("10.96.") && v6.startsWith("fd96:"), `api is ${JSON.stringify([v4, v6])}`);
    return `api answered as A and AAAA in ${ms(took)} without its server`;
  } finally {
    lab.signalDns("SIGCONT");
  }
}

async function rulesComeBack({ lab }: Demo): Promise<string> {
  const receipts = lab.pod("receipts");
  const holdsRules = async (): Promise<boolean> =>
    (await receipts.exec(["nft", "list", "table", "inet", "trackbed"])).stdout.includes(`redirect to :${ports.outbound}`);
  assert(await holdsRules(), "the pod has no rules to begin with");
  const queued = countQueued(() => lab.nodes.flatMap((node) => [...node.pidsOf("daemon"), ...node.pidsOf("worker")]));
  const begun = performance.now();
  await receipts.run(["nft", "delete", "table", "inet", "trackbed"]);
  await until("the rules are back", holdsRules, PROPAGATION_MS);
  const took = performance.now() - begun;
  assert(took < REPAIRED_WITHIN_MS + queued(), `it took ${ms(took)}`);
  return `back after ${ms(took)}`;
}

async function workerDies({ lab, flows }: Demo): Promise<string> {
  const [node, shopper] = [lab.node("node-a"), lab.pod("shopper")];
  const probe = shopper.run(["node", join(import.meta.dirname, "probe.ts"), "web", "80", "2500"], { timeoutMs: 20_000 });
  probe.catch(() => undefined); // told by the await below, unless another condition fails first
  const since = flows.mark();
  await flows.find("the probe's first connection", between("shopper", "web", "relay"), since);
  const engines = (): number[] => lab.nodes.flatMap((each) => [...each.pidsOf("engine"), ...each.pidsOf("worker")]);
  const queued = countQueued(engines);
  const killed = node.kill("worker");
  const result = JSON.parse(await probe) as Probe;
  await until("another worker runs", () => node.pidsOf("worker").some((pid) => !killed.includes(pid)));
  assert(result.refused === 0, `${result.refused} new connections were refused: ${JSON.stringify(result)}`);
  assert(result.served > 0, `nothing was served: ${JSON.stringify(result)}`);
  assert(result.slowestMs < SERVED_WITHIN_MS + queued(), `the slowest took ${ms(result.slowestMs)}: ${JSON.stringify(result)}`);
  return `${result.served} served, 0 refused, ${result.broken} cut with the worker, slowest ${ms(result.slowestMs)}`;
}
