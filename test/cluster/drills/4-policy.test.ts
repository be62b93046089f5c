// Policies at a waypoint of a cluster: what the API server refuses at once, who gets in with which token, how often, and that nobody gets past.
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { VALID, WRONG } from "../../../src/source/project/policy/specimen.ts";
import { type Cluster, type Condition, cluster, waitFor } from "../cluster.ts";
import { installGatewayApi } from "../conformance.ts";
import { MARKER, openShop, type Shop } from "../shop.ts";

const NAMESPACE = "guarded";
const APP = 8080;
const ISSUER = "https://id.example";
/** Control looks once a minute whether the cluster has the Gateway API by now. */
const CLASS_MS = 90_000;

const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

function token(claims: object, key: KeyObject = keys.privateKey): string {
  const text = `${encode({ alg: "ES256", kid: "one" })}.${encode({ iss: ISSUER, exp: Math.floor(Date.now() / 1000) + 600, ...claims })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

const document = (kind: string, name: string, spec: object, apiVersion = "security.istio.io/v1"): object => ({
  apiVersion,
  kind,
  metadata: { name, namespace: NAMESPACE },
  spec,
});
const ON_WEB = { targetRefs: [{ group: "", kind: "Service", name: "web" }] };
const list = (items: readonly object[]): string => JSON.stringify({ apiVersion: "v1", kind: "List", items });

describe("policies at a waypoint", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    await installGatewayApi(c);
    await waitFor("the class", async () => (await c.tryKubectl("get", "gatewayclass", "trackbed-waypoint")).code === 0, CLASS_MS);
    shop = await openShop(c, NAMESPACE, { labels: { "trackbed.dev/mesh": "enabled", "trackbed.dev/waypoint": "auto" } });
    await shop.captured();
  });
  after(async () => {
    await shop?.remove();
  });

  /** Status and body of an answer, 0 without one. */
  async function ask(node: string, url: string, bearer = ""): Promise<{ readonly status: number; readonly text: string }> {
    const client = (await shop.podOn("client", node)).metadata.name;
    const header = bearer === "" ? "" : `--header 'Authorization: Bearer ${bearer}'`;
    const text = await c.podExec(NAMESPACE, client, `timeout 5 wget -q -S -O - ${header} ${url} 2>&1 || true`);
    return { status: Number(/HTTP\/1\.[01] (\d{3})/.exec(text)?.[1] ?? 0), text };
  }
  const statusOf = async (url: string, bearer = ""): Promise<number> => (await ask("node1", url, bearer)).status;
  const WEB = `http://web.${NAMESPACE}/`;
  const until = (what: string, status: number, bearer = ""): Promise<unknown> =>
    waitFor(what, async () => (await statusOf(WEB, bearer)) === status);

  test("what cannot be right is refused when it is written, by the rules that control reads it by", async () => {
    const named = (kind: string, i: number, spec: object) => document(kind, `p-${i}`, spec, "trackbed.dev/v1alpha1");
    const refusal = (items: readonly object[]): Promise<string> =>
      c.kubectlInput(list(items), "create", "--validate=ignore", "--dry-run=server", "-f", "-").then(() => "", String);
    assert.equal(await refusal(VALID.map(([kind, spec], i) => named(kind, i, spec))), "");
    const refused = await refusal(WRONG.map(([kind, spec], i) => named(kind, i, spec)));
    for (const [i, [kind, spec]] of WRONG.entries())
      assert.match(refused, new RegExp(`${kind}[^\\n]*"p-${i}"`, "i"), `${JSON.stringify(spec)} was not refused by name`);
    assert.ok(!/ created /.test(refused), `some were taken: ${refused}`);
    const twice = document("RequestAuthentication", "twice", { ...ON_WEB, selector: { matchLabels: { a: "b" } } });
    assert.match(await refusal([twice]), /only one of selector/);
  });

  test("a token is asked for from the moment when a waypoint is there, which the policy itself brings about, and no pod is reached past it", async () => {
    const [pod] = await shop.pods("web");
    const address = (pod?.status as { podIP?: string } | undefined)?.podIP ?? "";
    const past = `http://${address}:${APP}/`;
    assert.equal(await statusOf(past), 200, "until there is a policy, pods answer");
    const jwks = JSON.stringify({ keys: [{ ...keys.publicKey.export({ format: "jwk" }), kid: "one", alg: "ES256" }] });
    await c.apply(
      list([
        document("RequestAuthentication", "id", { ...ON_WEB, jwtRules: [{ issuer: ISSUER, jwks }] }),
        document("AuthorizationPolicy", "alice", {
          ...ON_WEB,
          rules: [{ from: [{ source: { requestPrincipals: [`${ISSUER}/alice`] } }] }],
        }),
      ]),
    );
    await waitFor("the waypoint", async () => (await c.tryKubectl("-n", NAMESPACE, "get", "gateway", "waypoint")).code === 0);
    await c.kubectl("-n", NAMESPACE, "wait", "gateway/waypoint", "--for=condition=Programmed", "--timeout=60s");
    await until("nobody without a token", 403);
    const alice = token({ sub: "alice" });
    await until("with a token", 200, alice);
    for (const node of c.nodes) assert.match((await ask(node, WEB, alice)).text, new RegExp(MARKER));
    assert.match((await ask("node1", WEB)).text, /403/);
    assert.equal(await statusOf(WEB, token({ sub: "bob" })), 403);
    assert.equal(await statusOf(WEB, token({ sub: "alice" }, generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey)), 401);
    await waitFor("past the waypoint nobody gets through", async () => (await statusOf(past)) === 0);
    assert.equal(await statusOf(WEB, alice), 200);
    const { status } = await c.get<{ status?: { conditions?: Condition[] } }>("-n", NAMESPACE, "authorizationpolicy/alice");
    assert.ok(status?.conditions?.some(({ type, status: is }) => type === "trackbed.dev/Accepted" && is === "True"));
  });

  test("so many are admitted and no more, and of two policies on one service the younger is told who has it", async () => {
    const limit = (requests: number) => ({ ...ON_WEB, rateLimit: { local: { rules: [{ limit: { requests, unit: "Hour" } }] } } });
    const ours = (name: string, requests: number) => document("RequestPolicy", name, limit(requests), "trackbed.dev/v1alpha1");
    await c.apply(JSON.stringify(ours("first", 0)));
    const alice = token({ sub: "alice" });
    await until("nobody is admitted", 429, alice);
    await c.apply(JSON.stringify(ours("second", 100)));
    type Status = { status?: { ancestors?: { conditions: Condition[] }[] } };
    await waitFor("the loser is told", async () => {
      const { status } = await c.get<Status>("-n", NAMESPACE, "requestpolicy/second");
      return status?.ancestors?.[0]?.conditions.some(({ reason }) => reason === "Conflicted");
    });
    await c.kubectl("-n", NAMESPACE, "delete", "requestpolicy", "first");
    await until("the second's limit", 200, alice);
  });
});
