// What went over the mesh, asked for as its users do: from any machine with a kubeconfig, through control, by whoever may read the namespace.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { execute, type Output } from "../command.ts";
import { MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";

const NAMESPACE = "flows";
const COMMAND_MS = 60_000;
/** Edges are told of every 2 s and written every 10 s. */
const COUNTED_MS = 30_000;

describe("what went over the mesh", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, NAMESPACE, { labels: { "trackbed.dev/mesh": "enabled" } });
    await shop.captured();
    for (const node of c.nodes) await shop.get(node, "http://web/");
  });
  after(() => shop?.remove());

  const ask = (...args: readonly string[]): Promise<Output> =>
    execute(trackbed.argv(...args), { env: trackbed.env(c.settings), deadlineMs: COMMAND_MS });
  const told = async (...args: readonly string[]): Promise<Output> => {
    const output = await ask(...args);
    assert.equal(output.code, 0, output.stderr);
    return output;
  };
  const lines = ({ stdout }: Output): unknown[] =>
    stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as unknown);

  test("is told of by every node, through control, with both identities and the service", async () => {
    const seen = await waitFor("both clients' connections are told of", async () => {
      const said = lines(
        await told("flows", "source.workload == client && verdict == allowed", "-n", NAMESPACE, "-o", "json"),
      ) as FlowLine[];
      const flows = said.flatMap((line): FlowRecord[] => (line.type === "flow" ? [line.flow] : []));
      return new Set(flows.map(({ source }) => source.node)).size === c.nodes.length ? flows : null;
    });
    for (const { source, destination, service, direction } of seen) {
      assert.equal(source.identity, `spiffe://cluster.local/ns/${NAMESPACE}/sa/client`);
      assert.ok(destination.identity === null || destination.identity === `spiffe://cluster.local/ns/${NAMESPACE}/sa/web`);
      // The node of the server is dialled by address: what name the client used is the client's node to tell.
      if (direction === "outbound") assert.match(service ?? "", /^flows\/web\./);
    }
  });

  test("is counted, and stays counted", async () => {
    await waitFor(
      "the connections are in the sums",
      async () => {
        const sums = lines(await told("flows", "--by", "source.workload,destination.workload,verdict", "-n", NAMESPACE, "-o", "json"));
        return sums.some(
          (sum) => /"client"/.test(JSON.stringify(sum)) && /"web"/.test(JSON.stringify(sum)) && /"allowed"/.test(JSON.stringify(sum)),
        );
      },
      COUNTED_MS,
    );
  });

  test("is proven to be mutual TLS", async () => {
    const { proven, connections } = JSON.parse((await told("verify", `${NAMESPACE}/client`, `${NAMESPACE}/web`, "-o", "json")).stdout) as {
      proven: boolean | null;
      connections: number;
    };
    assert.equal(proven, true);
    assert.ok(connections > 0);
  });

  test("is not told to an account without the right to read it", async () => {
    const refused = await ask("flows", "-n", NAMESPACE, "--account", `${NAMESPACE}/client`);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /E_INSPECTION_REFUSED/);
    assert.equal(refused.stdout, "");
  });

  test("is recorded, decrypted, for whoever may, and the namespace is told of it", async () => {
    const pod = (await shop.podOn("web", "node2")).metadata.name;
    const record = (file: string) => ask("pcap", `pod/${NAMESPACE}/${pod}`, "--account", `${NAMESPACE}/on-call`, "--for", "4s", "-w", file);
    await c.kubectl("-n", NAMESPACE, "create", "serviceaccount", "on-call");
    const directory = mkdtempSync(join(tmpdir(), "trackbed-drill-"));
    try {
      const refused = await record(join(directory, "refused.pcapng"));
      assert.notEqual(refused.code, 0);
      assert.match(refused.stderr, /E_INSPECTION_REFUSED/);
      await c.kubectl(
        "-n",
        NAMESPACE,
        "create",
        "rolebinding",
        "on-call",
        "--clusterrole=trackbed-recorder",
        `--serviceaccount=${NAMESPACE}:on-call`,
      );
      const file = join(directory, "web.pcapng");
      const ended = new AbortController();
      const recording = record(file).finally(() => ended.abort());
      while (!ended.signal.aborted) await shop.get("node1", podUrl(await shop.podOn("web", "node2")));
      const { code, stderr } = await recording;
      assert.equal(code, 0, stderr);
      assert.ok(readFileSync(file).includes(MARKER), stderr);
      assert.match(await c.kubectl("-n", NAMESPACE, "get", "events"), /TrafficRecorded.*on-call/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("is foretold: explain says what a connection would meet, and follows a policy", async () => {
    const question = ["explain", `${NAMESPACE}/client`, `web.${NAMESPACE}:80`, "-o", "json"];
    await told(...question);
    await c.apply(
      JSON.stringify({
        apiVersion: "security.istio.io/v1",
        kind: "AuthorizationPolicy",
        metadata: { name: "nobody", namespace: NAMESPACE },
        spec: { action: "DENY", selector: { matchLabels: { app: "web" } }, rules: [{}] },
      }),
    );
    const stdout = await waitFor("control has the policy", async () => {
      const answer = await ask(...question);
      return answer.code === 1 && answer.stdout;
    });
    assert.match(stdout, /flows\/nobody/);
    await waitFor("and so it is", async () => !(await shop.reaches("node1", "http://web/")));
  });
});
