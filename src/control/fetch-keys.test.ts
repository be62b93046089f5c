// Claims about fetching keys, against real servers: each way to fail is an error that says what, and nothing forbidden is reached.
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { type TestContext, test } from "node:test";
import { createFetchKeys, forbiddenAs } from "./fetch-keys.ts";

const OPTIONS = { etag: "", timeoutMilliseconds: 5_000 };
const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const KEY = { ...publicKey.export({ format: "jwk" }), kid: "one", alg: "ES256", use: "sig" };
const SET = JSON.stringify({ keys: [KEY] });

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

async function listening(t: TestContext, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => new Promise((resolve) => server.close(resolve)));
  return (server.address() as AddressInfo).port;
}

/** A server of this machine, and a fetcher that may reach it. */
async function issuer(t: TestContext, answer: Answer) {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answer(request, response);
  });
  t.after(() => server.closeAllConnections());
  const port = await listening(t, server);
  const fetch = createFetchKeys({ nodeAddresses: () => [], isForbidden: () => false });
  t.after(() => fetch.close());
  return { fetch, url: `http://127.0.0.1:${port}/keys`, requests };
}

test("keys are fetched, and nothing but what is public of them goes on", async (t) => {
  const secret = { ...KEY, kid: "two", d: "private" };
  const shared = { kty: "oct", k: "c2VjcmV0" };
  const { fetch, url } = await issuer(t, (_, response) => {
    response
      .setHeader("etag", '"v1"')
      .setHeader("cache-control", "public, max-age=600")
      .end(JSON.stringify({ keys: [KEY, secret, shared, 7] }));
  });
  const got = await fetch(url, OPTIONS);
  assert.ok(got.kind === "keys");
  assert.deepEqual([got.etag, got.freshSeconds], ['"v1"', 600]);
  const { keys } = JSON.parse(got.jwks) as { keys: Record<string, unknown>[] };
  assert.deepEqual(
    keys.map(({ kid, d, k }) => [kid, d, k]),
    [
      ["one", undefined, undefined],
      ["two", undefined, undefined],
    ],
  );
});

test("what did not change is not sent again", async (t) => {
  const { fetch, url, requests } = await issuer(t, (request, response) => {
    if (request.headers["if-none-match"] === '"v1"') response.writeHead(304).end();
    else response.end(SET);
  });
  assert.deepEqual(await fetch(url, { ...OPTIONS, etag: '"v1"' }), { kind: "unchanged", freshSeconds: null });
  assert.equal(requests[0]?.headers["if-none-match"], '"v1"');
});

test("an issuer's configuration leads to its keys", async (t) => {
  const { fetch, url } = await issuer(t, (request, response) => {
    const host = request.headers.host;
    response.end(request.url === "/keys" ? SET : JSON.stringify({ jwks_uri: `http://${host}/keys` }));
  });
  const got = await fetch(url.replace("/keys", "/.well-known/openid-configuration"), OPTIONS);
  assert.ok(got.kind === "keys" && got.jwks.includes('"kid":"one"'));
});

test("a set without keys is an answer, and obeyed", async (t) => {
  const { fetch, url } = await issuer(t, (_, response) => response.end('{"keys":[]}'));
  const got = await fetch(url, OPTIONS);
  assert.ok(got.kind === "keys");
  assert.equal(got.jwks, '{"keys":[]}');
});

const FAILURES: readonly (readonly [string, Answer, RegExp])[] = [
  ["500", (_, response) => response.writeHead(500).end("sorry"), /answered 500$/],
  ["404", (_, response) => response.writeHead(404).end(SET), /answered 404$/],
  [
    "redirect",
    (_, response) => response.writeHead(302, { location: "http://169.254.169.254/" }).end(SET),
    /answered 302; redirects are not followed/,
  ],
  ["304 that nobody asked for", (_, response) => response.writeHead(304).end(), /answered 304/],
  ["empty", (_, response) => response.end(), /no JSON$/],
  ["not JSON", (_, response) => response.end("<html>"), /no JSON$/],
  ["JSON of another kind", (_, response) => response.end('{"error":"x"}'), /no JSON Web Key Set/],
  ["a list", (_, response) => response.end(`[${JSON.stringify(KEY)}]`), /no JSON Web Key Set/],
  ["too many keys", (_, response) => response.end(JSON.stringify({ keys: Array(101).fill({ kty: "RSA" }) })), /no JSON Web Key Set/],
  ["huge", (_, response) => response.end(`{"keys":[],"x":"${"x".repeat(1_000_000)}"}`), /more than 65536 bytes/],
  ["cut off", (_, response) => void response.writeHead(200, { "content-length": "100" }).write("{", () => response.destroy()), /.+/],
  ["silent", () => undefined, /no answer within 300 ms/],
  [
    "dribbling",
    (_, response) => {
      response.write("{");
      const timer = setInterval(() => response.write(" "), 20);
      response.on("close", () => clearInterval(timer));
    },
    /no answer within 300 ms/,
  ],
];

for (const [name, answer, reason] of FAILURES)
  test(`a server that answers so is a failure that says why: ${name}`, async (t) => {
    const { fetch, url } = await issuer(t, answer);
    await assert.rejects(fetch(url, { etag: "", timeoutMilliseconds: 300 + (name === "huge" ? 5_000 : 0) }), (error: Error) => {
      assert.match(error.message, reason);
      return true;
    });
  });

test("nobody who does not listen, and no certificate that nobody vouches for", async (t) => {
  const fetch = createFetchKeys({ nodeAddresses: () => [], isForbidden: () => false });
  t.after(() => fetch.close());
  await assert.rejects(fetch("http://127.0.0.1:1/", OPTIONS), /ECONNREFUSED/);
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const server = createTlsServer({ key: privateKey.export({ type: "pkcs8", format: "pem" }) }, (_, response) => response.end(SET));
  const port = await listening(t, server);
  await assert.rejects(fetch(`https://127.0.0.1:${port}/`, OPTIONS));
});

test("this machine, the node, its cloud and what hides them are never asked, by address or by a name for it", async (t) => {
  const { url, requests } = await issuer(t, (_, response) => response.end(SET));
  const fetch = createFetchKeys({ nodeAddresses: () => ["192.0.2.7", "2001:db8::7"] });
  t.after(() => fetch.close());
  const port = new URL(url).port;
  for (const host of ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1"])
    await assert.rejects(fetch(`http://${host}:${port}/keys`, OPTIONS), /keys are not fetched from there/, host);
  for (const host of ["169.254.169.254", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "192.0.2.7", "[2001:db8:0::7]"])
    await assert.rejects(fetch(`http://${host}/`, OPTIONS), /keys are not fetched from there/, host);
  assert.equal(requests.length, 0);
});

test("what a configuration names is held to the same rules", async (t) => {
  let target = "";
  const { url, requests } = await issuer(t, (_, response) => response.end(JSON.stringify({ jwks_uri: target })));
  const local = "127.0.0.1";
  const fetch = createFetchKeys({ nodeAddresses: () => [], isForbidden: (address) => address !== local });
  t.after(() => fetch.close());
  for (target of ["http://169.254.169.254/latest", "file:///etc/passwd", "http://a:b@127.0.0.1/", "nothing"])
    await assert.rejects(
      fetch(url.replace("/keys", "/.well-known/openid-configuration"), OPTIONS),
      /not fetched|only http|no jwks_uri/,
      target,
    );
  assert.equal(requests.length, 4);
});

test("pods and services of the cluster may be issuers, and so may the world", () => {
  for (const address of ["10.96.0.10", "10.244.1.7", "192.168.1.1", "172.16.0.1", "203.0.113.1", "fd00::1", "2001:db8::1", "100.64.0.1"])
    assert.equal(forbiddenAs(address), "", address);
  for (const address of [
    "127.1.2.3",
    "169.254.7.127",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:169.254.169.254",
    "fe80::1",
    "febf::1",
    "255.255.255.255",
    "x",
  ])
    assert.notEqual(forbiddenAs(address), "", address);
});
