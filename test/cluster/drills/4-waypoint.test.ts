// A waypoint in a cluster: made for a Gateway, used by a service, upgraded under load, and gone with its Gateway; and what control may not do with
// its rights to make one.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, type Condition, cluster, type Document, type List, waitFor } from "../cluster.ts";
import { execute, type Output } from "../command.ts";
import { installGatewayApi } from "../conformance.ts";
import { fetching, MARKER, openShop, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";
import { witness } from "../witness.ts";

const NAMESPACE = "routed";
/** Where nobody writes a Gateway. */
const IMPLIED = "implied";
const APP = 8080;
const COMMAND_MS = 120_000;
const CONTROL = "system:serviceaccount:trackbed-system:trackbed-control";
const KINDS = ["deployment", "service", "serviceaccount", "poddisruptionbudget"] as const;
/** Control looks once a minute whether the cluster has the Gateway API by now. */
const CLASS_MS = 90_000;
/** From each node: more than one for each moment of the exchange. */
const LEAST_REQUESTS = 50;
/** Half a minute after nothing needs it. */
const IDLE_MS = 90_000;
/** The old pod ends its requests, the new one is there first: seconds on a busy machine. */
const ROLLOUT_MS = 60_000;

/** A Service with a route in a namespace that is labelled auto. */
const implied = (): string =>
  [
    {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: IMPLIED, labels: { "trackbed.dev/mesh": "enabled", "trackbed.dev/waypoint": "auto" } },
    },
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "web", namespace: IMPLIED },
      spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
    },
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: { name: "web", namespace: IMPLIED },
      spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules: [{ backendRefs: [{ name: "web", port: 80 }] }] },
    },
  ]
    .map((document) => JSON.stringify(document))
    .join("\n---\n");

describe("a waypoint", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    await installGatewayApi(c);
    await waitFor(
      "control makes the class",
      async () => (await c.tryKubectl("get", "gatewayclass", "trackbed-waypoint")).code === 0,
      CLASS_MS,
    );
    shop = await openShop(c, NAMESPACE, { labels: { "trackbed.dev/mesh": "enabled" } });
    await shop.captured();
  });
  after(async () => {
    await shop?.remove();
    await c.kubectl("delete", "namespace", IMPLIED, "--ignore-not-found", "--wait=false");
  });

  const waypointPods = async (): Promise<string[]> => {
    const { items } = await c.get<List>("pods", "-n", NAMESPACE, "-l", "gateway.networking.k8s.io/gateway-name=waypoint");
    return items.map(({ metadata }) => metadata.name);
  };
  const ask = (...args: readonly string[]): Promise<Output> =>
    execute(trackbed.argv(...args), { env: trackbed.env(c.settings), deadlineMs: COMMAND_MS });
  const route = (rules: readonly object[]): Promise<void> =>
    c.apply(
      JSON.stringify({
        apiVersion: "gateway.networking.k8s.io/v1",
        kind: "HTTPRoute",
        metadata: { name: "web", namespace: NAMESPACE },
        spec: { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules },
      }),
    );
  const backendRefs = [{ name: "web", port: 80 }];
  /** What httpd would answer with 404: whoever gets an answer came by the waypoint. */
  const REWRITTEN = {
    matches: [{ path: { type: "Exact", value: "/old" } }],
    filters: [{ type: "URLRewrite", urlRewrite: { path: { type: "ReplaceFullPath", replaceFullPath: "/index.html" } } }],
    backendRefs,
  };

  test("is made for a Gateway, and the command waits until it serves", async () => {
    await c.apply(implied());
    const made = await ask("waypoint", "apply", "-n", NAMESPACE);
    assert.equal(made.code, 0, `${made.stdout}${made.stderr}\n${await c.kubectl("-n", NAMESPACE, "get", "gateway,pods", "-o", "yaml")}`);
    for (const kind of KINDS) await c.kubectl("-n", NAMESPACE, "get", kind, "waypoint");
    const { items } = await c.get<{ items: Document[] }>("pods", "-n", NAMESPACE, "-l", "gateway.networking.k8s.io/gateway-name=waypoint");
    assert.ok(
      items.length > 0 && items.every(({ status }) => status?.conditions?.every(({ type }) => type !== "trackbed.dev/Captured") === true),
      "a waypoint's pod is never captured",
    );
    await waitFor("the implied one", async () => (await c.tryKubectl("-n", IMPLIED, "get", "gateway", "waypoint")).code === 0);
    await c.kubectl("-n", IMPLIED, "wait", "gateway/waypoint", "--for=condition=Programmed", "--timeout=60s");
    await c.kubectl("-n", IMPLIED, "delete", "httproute", "web");
    const { status } = await c.get<Document>("gatewayclass", "trackbed-waypoint");
    assert.ok(status?.conditions?.some(({ type, status: is }) => type === "Accepted" && is === "True"));
  });

  test("carries what its service is asked for, by its route, and nothing of it in clear", async () => {
    await c.kubectl("-n", NAMESPACE, "label", "service", "web", "trackbed.dev/use-waypoint=waypoint");
    await route([REWRITTEN, { matches: [{ path: { type: "PathPrefix", value: "/" } }], backendRefs }]);
    for (const node of c.nodes) await waitFor(`the route holds on ${node}`, () => shop.get(node, `http://web.${NAMESPACE}/old`));
    const seen = await witness(c, "node1", async () => {
      for (const node of c.nodes)
        for (let i = 0; i < 4; i++) assert.match(await shop.get(node, `http://web.${NAMESPACE}/old`), new RegExp(MARKER));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
    const parents = async (): Promise<Condition[]> => {
      const { status } = await c.get<{ status?: { parents?: { conditions: Condition[] }[] } }>("-n", NAMESPACE, "httproute/web");
      return status?.parents?.flatMap(({ conditions }) => conditions) ?? [];
    };
    await waitFor("the route's status", async () => {
      const conditions = await parents();
      return conditions.length >= 2 && conditions.every(({ status }) => status === "True");
    });
  });

  test("is upgraded while every node asks, and no request is lost", async () => {
    const clients = await Promise.all(c.nodes.map(async (node) => (await shop.podOn("client", node)).metadata.name));
    const url = `http://web.${NAMESPACE}/old`;
    // In the pod itself: on a busy machine each command into it takes longer than many requests.
    const [begun, stop] = [`/tmp/begun-${process.pid}`, `/tmp/stop-${process.pid}`];
    const loop = `n=0; while [ ! -e ${stop} ] || [ $n -lt ${LEAST_REQUESTS} ]; do
      ${fetching(url)} >/dev/null 2>/tmp/why || echo "lost: $(cat /tmp/why)"; n=$((n+1)); touch ${begun}; done; echo asked $n`;
    const asking = Promise.all(clients.map((client) => c.podExec(NAMESPACE, client, loop)));
    for (const client of clients) await waitFor(`${client} asks`, () => c.podExec(NAMESPACE, client, `test -e ${begun} && echo yes`));
    const [before = ""] = await waypointPods();
    await c.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/waypoint");
    await waitFor(
      "the old one is gone",
      async () => {
        const pods = await waypointPods();
        return pods.length === 1 && pods[0] !== before;
      },
      ROLLOUT_MS,
    );
    for (const client of clients) await c.podExec(NAMESPACE, client, `touch ${stop}`);
    for (const said of await asking) assert.match(said, /^asked \d+\s*$/, said); // and not a word of a lost one
  });

  test("is put back when somebody changes or deletes a part of it, and serves again", async () => {
    await c.kubectl(
      "-n",
      NAMESPACE,
      "patch",
      "service",
      "waypoint",
      "-p",
      '{"spec":{"selector":{"gateway.networking.k8s.io/gateway-name":"other"}}}',
    );
    await waitFor("the selector is as planned", async () => {
      const { spec } = await c.get<{ spec: { selector: Record<string, string> } }>("-n", NAMESPACE, "service/waypoint");
      return spec.selector["gateway.networking.k8s.io/gateway-name"] === "waypoint";
    });
    const [before = ""] = await waypointPods();
    await c.kubectl("-n", NAMESPACE, "delete", "deployment", "waypoint");
    await waitFor("another pod of it", async () => (await waypointPods()).some((name) => name !== before));
    await c.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/waypoint", "--timeout=60s");
    await waitFor("it serves", () => shop.get("node1", `http://web.${NAMESPACE}/old`));
    const { code, stdout, stderr } = await ask("waypoint", "status", "-n", NAMESPACE, "-o", "json");
    assert.equal(code, 0, `${stdout}${stderr}`);
  });

  test("cannot be used by control for anything else: what is no waypoint is refused", async () => {
    const as = (...args: readonly string[]) => c.tryKubectl("-n", NAMESPACE, ...args, `--as=${CONTROL}`);
    const refused: [string, Promise<Output>, RegExp][] = [
      ["a Deployment", as("create", "deployment", "other", "--image=x"), /control labels what it makes/],
      ["somebody's Service", as("patch", "service", "web", "-p", '{"spec":{"selector":{"a":"b"}}}'), /control labels|only what it made/],
      [
        "a waypoint on the host's network",
        as("patch", "deployment", "waypoint", "--type=merge", "-p", '{"spec":{"template":{"spec":{"hostNetwork":true}}}}'),
        /a waypoint has no rights/,
      ],
      [
        "kube-system",
        c.tryKubectl("-n", "kube-system", "create", "serviceaccount", "other", `--as=${CONTROL}`),
        /must start without waypoints/,
      ],
    ];
    for (const [what, tried, reason] of refused) {
      const { code, stderr } = await tried;
      assert.notEqual(code, 0, what);
      assert.match(stderr, reason, what);
    }
  });

  test("goes with its Gateway, and its service is reached directly again once nobody names it", async () => {
    const kept = await ask("waypoint", "delete", "-n", NAMESPACE);
    assert.notEqual(kept.code, 0, "a service names it");
    await c.kubectl("-n", NAMESPACE, "delete", "httproute", "web");
    await c.kubectl("-n", NAMESPACE, "label", "service", "web", "trackbed.dev/use-waypoint-");
    const deleted = await ask("waypoint", "delete", "-n", NAMESPACE);
    assert.equal(deleted.code, 0, deleted.stderr);
    for (const kind of KINDS) await c.kubectl("-n", NAMESPACE, "wait", "--for=delete", `${kind}/waypoint`, "--timeout=60s");
    await waitFor("the service is reached", () => shop.reaches("node1", `http://web.${NAMESPACE}/`));
  });

  test("that nobody wrote comes when something in an auto namespace needs it, and goes when nothing does", async () => {
    await waitFor("the Gateway is gone", async () => (await c.tryKubectl("-n", IMPLIED, "get", "gateway", "waypoint")).code !== 0, IDLE_MS);
    for (const kind of KINDS) await c.kubectl("-n", IMPLIED, "wait", "--for=delete", `${kind}/waypoint`, "--timeout=60s");
  });
});
