// Claims about who may read what nodes saw: tokens of the right audience only, and RBAC's word for each namespace.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { createApi } from "#source/kubernetes/api.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { createViewers } from "./viewers.ts";

const READER = { username: "system:serviceaccount:shop:reader", uid: "u", groups: ["system:serviceaccounts"], extra: { k: ["v"] } };

async function viewers(t: TestContext) {
  const api = await fakeApi();
  t.after(() => api.close());
  const asked: { path: string; body: unknown }[] = [];
  const tokens: Record<string, { audiences: string[]; authenticated?: boolean }> = {
    good: { audiences: ["trackbed-viewer"] },
    pod: { audiences: ["https://kubernetes.default.svc"] },
    daemon: { audiences: ["trackbed"] },
    ended: { audiences: ["trackbed-viewer"], authenticated: false },
  };
  api.answer = ({ path, body }) => {
    asked.push({ path, body });
    if (path.endsWith("/subjectaccessreviews")) {
      const { spec } = body as { spec: { user: string; resourceAttributes: { namespace?: string } } };
      return { status: { allowed: spec.user === READER.username && spec.resourceAttributes.namespace === "shop" } };
    }
    const { spec } = body as { spec: { token: string } };
    const { audiences = [], authenticated = audiences.length > 0 } = tokens[spec.token] ?? {};
    return { status: { authenticated, audiences, user: READER } };
  };
  const clock = { now: 0 };
  return { api, asked, clock, ...createViewers(createApi(api.credentials), () => clock.now) };
}

test("a token of our audience proves who it is; pods, daemons, strangers and ended ones are nobody", async (t) => {
  const { viewerOf, asked } = await viewers(t);
  assert.deepEqual(await viewerOf("good", "10.0.0.1"), READER);
  for (const token of ["", "pod", "daemon", "ended", "stranger", "x".repeat(20_000)])
    assert.equal(await viewerOf(token, "10.0.0.2"), null, token.slice(0, 10));
  assert.deepEqual((asked[0]?.body as { spec: unknown } | undefined)?.spec, { token: "good", audiences: ["trackbed-viewer"] });
});

test("RBAC is asked for get on flows.trackbed.dev of each namespace, with all that is known of the caller", async (t) => {
  const { mayRead, asked } = await viewers(t);
  assert.deepEqual([await mayRead(READER, "shop"), await mayRead(READER, "bank"), await mayRead(READER, null)], [true, false, false]);
  const { username: user, ...rest } = READER;
  const attributes = { verb: "get", group: "trackbed.dev", resource: "flows" };
  assert.deepEqual(
    asked.map(({ body }) => (body as { spec: unknown }).spec),
    [{ namespace: "shop" }, { namespace: "bank" }, {}].map((where) => ({ user, ...rest, resourceAttributes: { ...attributes, ...where } })),
  );
});

test("answers are remembered for seconds, not longer, and what could not be asked is asked again", async (t) => {
  const { api, mayRead, viewerOf, asked, clock } = await viewers(t);
  for (let i = 0; i < 3; i++) assert.ok((await viewerOf("good", "10.0.0.1")) !== null && (await mayRead(READER, "shop")));
  assert.equal(asked.length, 2);
  clock.now = 11_000;
  await mayRead(READER, "shop");
  assert.equal(asked.length, 3);
  clock.now = 22_000;
  api.fault = () => ({ status: 500 });
  await assert.rejects(mayRead(READER, "shop"));
  api.fault = () => null;
  assert.equal(await mayRead(READER, "shop"), true);
});

test("a flood of strangers' tokens ends here and not at the API server", async (t) => {
  const { viewerOf, asked } = await viewers(t);
  await assert.rejects(async () => {
    for (let i = 0; i < 100; i++) await viewerOf(`stranger-${i}`, "10.0.0.9");
  }, /too many unknown tokens/);
  assert.ok(asked.length < 30, `${asked.length} reviews`);
  assert.deepEqual(await viewerOf("good", "10.0.0.1"), READER, "others are not held up");
});
