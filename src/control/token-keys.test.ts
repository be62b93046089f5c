// Claims about keys of tokens: filled in, fetched once for all, kept while their issuer is away and not for ever, and told only when they are others.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { JwtRule, RequestAuthentication } from "#mesh/authorization.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { meta } from "#mesh/specimen.ts";
import type { Change } from "#source/source.ts";
import { type FetchKeys, fetchingKeys, type TokenKeysOptions } from "./token-keys.ts";

const URL_ = "https://id.example/keys";
const rule = (more: Partial<JwtRule> = {}): JwtRule => ({
  issuer: "https://id.example",
  audiences: [],
  jwksUri: URL_,
  jwks: "",
  fromHeaders: [],
  fromParams: [],
  fromCookies: [],
  forwardOriginalToken: false,
  outputPayloadToHeader: "",
  outputClaimToHeaders: [],
  spaceDelimitedClaims: [],
  timeoutMilliseconds: 5_000,
  ...more,
});
const authentication = (name: string, ...jwtRules: JwtRule[]): RequestAuthentication => ({
  kind: "RequestAuthentication",
  metadata: meta("shop", name),
  targets: [],
  selector: {},
  jwtRules,
  unenforceable: [],
  keys: {},
});
const batch = (put: readonly MeshObject[], reset = false): Change => ({ reset, put, remove: [], faults: [], places: new Map() });

type Said = { keys: string } | { error: string } | "unchanged";

/** A source and an issuer that the test holds in its hands. */
function follow(t: TestContext, times: TokenKeysOptions["times"] = {}) {
  const stop = new AbortController();
  t.after(() => stop.abort());
  const waiting: Change[] = [];
  let bell = Promise.withResolvers<void>();
  const tell = (change: Change): void => {
    waiting.push(change);
    bell.resolve();
  };
  async function* source(): AsyncGenerator<Change> {
    for (;;) {
      const next = waiting.shift();
      if (next !== undefined) yield next;
      else {
        bell = Promise.withResolvers();
        stop.signal.addEventListener("abort", () => bell.resolve(), { once: true });
        await bell.promise;
        if (stop.signal.aborted) return;
      }
    }
  }
  const asked: { url: string; etag: string; timeoutMilliseconds: number }[] = [];
  const troubles: (string | null)[] = [];
  const issuer: { said: Said } = { said: { keys: "A" } };
  const fetch: FetchKeys = async (url, options) => {
    asked.push({ url, ...options });
    const { said } = issuer;
    if (said === "unchanged") return { kind: "unchanged", freshSeconds: null };
    if ("error" in said) throw new Error(said.error);
    return { kind: "keys", jwks: said.keys, etag: `"${said.keys}"`, freshSeconds: null };
  };
  const fast = { freshMilliseconds: 15, firstRetryMilliseconds: 5, mostRetryMilliseconds: 20, firstMilliseconds: 1_000, ...times };
  const changes = fetchingKeys(source, {
    fetch,
    onTrouble: (_, error) => troubles.push(error === null ? null : (error as Error).message),
    times: fast,
  })(stop.signal)[Symbol.asyncIterator]();
  const keysOf = ({ put }: Change): unknown[] =>
    put.map((one) => (one.kind === "RequestAuthentication" ? Object.values(one.keys)[0] : null));
  const next = async (): Promise<unknown[]> => {
    const { value } = await changes.next();
    return keysOf(value as Change);
  };
  return { tell, next, asked, troubles, issuer };
}

const has = (jwks: string) => ({ jwks, missing: "" });
const lacks = (missing: string) => ({ jwks: "", missing });

test("the first batch has the keys already, and each URL is asked once, with the longest of its times", async (t) => {
  const f = follow(t, { freshMilliseconds: 60_000 });
  f.tell(batch([authentication("a", rule()), authentication("b", rule({ timeoutMilliseconds: 9_000 }))], true));
  assert.deepEqual(await f.next(), [has("A"), has("A")]);
  assert.deepEqual(f.asked, [{ url: URL_, etag: "", timeoutMilliseconds: 9_000 }]);
});

test("an issuer that was never reached leaves no keys, and says why; it is asked again until it answers", async (t) => {
  const f = follow(t);
  f.issuer.said = { error: "refused" };
  f.tell(batch([authentication("a", rule())], true));
  assert.deepEqual(await f.next(), [lacks("refused")]);
  f.issuer.said = { keys: "A" };
  assert.deepEqual(await f.next(), [has("A")]);
  assert.deepEqual(f.troubles, ["refused", null]);
});

test("keys rotate: what is fetched anew is told when it is another, and nothing is told when it is not", async (t) => {
  const f = follow(t);
  f.tell(batch([authentication("a", rule())], true));
  assert.deepEqual(await f.next(), [has("A")]);
  f.issuer.said = "unchanged";
  const later = f.next();
  const asked = f.asked.length;
  while (f.asked.length < asked + 3) await new Promise((resolve) => setTimeout(resolve, 2));
  assert.equal(f.asked.at(-1)?.etag, '"A"');
  f.issuer.said = { keys: "B" };
  assert.deepEqual(await later, [has("B")]);
});

test("the last keys hold while their issuer is away, but not for ever", async (t) => {
  const f = follow(t, { staleMilliseconds: 150 });
  f.tell(batch([authentication("a", rule())], true));
  assert.deepEqual(await f.next(), [has("A")]);
  const before = performance.now();
  f.issuer.said = { error: "down" };
  assert.deepEqual(await f.next(), [lacks("down")]);
  assert.ok(performance.now() - before > 100, "they were taken away too early");
  assert.deepEqual(f.troubles, ["down"]);
  f.issuer.said = { keys: "A" };
  assert.deepEqual(await f.next(), [has("A")]);
  assert.equal(f.asked.filter(({ etag }) => etag === "").length > 1, true, "after that they are asked for whole");
});

test("keys that an issuer withdraws are gone at once", async (t) => {
  const f = follow(t);
  f.tell(batch([authentication("a", rule())], true));
  await f.next();
  f.issuer.said = { keys: '{"keys":[]}' };
  assert.deepEqual(await f.next(), [has('{"keys":[]}')]);
});

test("a rule that holds its keys asks nobody", async (t) => {
  const f = follow(t);
  f.tell(batch([authentication("a", rule({ jwks: "{}", jwksUri: "" }))], true));
  assert.deepEqual(await f.next(), [undefined]);
  assert.deepEqual(f.asked, []);
});
