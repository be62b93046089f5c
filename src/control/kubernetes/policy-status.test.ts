import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { ObjectKey } from "#mesh/objects.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { controlResources } from "#source/kubernetes/resources.ts";
import { projectDocument } from "#source/project/project.ts";
import type { Fault } from "#source/source.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { ACCEPTED, createPolicyStatus } from "./policy-status.ts";

const POLICIES = "/apis/security.istio.io/v1/authorizationpolicies";
const KEY: ObjectKey = "AuthorizationPolicy/shop/p";
const FOREIGN = { type: "ZtunnelAccepted", status: "True", reason: "Accepted", message: "attached" };

const fault = (reason: string): Fault => ({ code: "E_SOURCE_INVALID", key: KEY, file: "", line: 0, field: "spec.action", reason });

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function cluster(t: TestContext, leads = true) {
  const server = await fakeApi();
  const stop = new AbortController();
  t.after(async () => {
    stop.abort();
    await server.close();
  });
  let leader = leads;
  const errors: unknown[] = [];
  const status = createPolicyStatus(
    {
      api: createApi(server.credentials),
      resources: controlResources(),
      isLeader: () => leader,
      onWritten: () => undefined,
      onError: (_key, error) => errors.push(error),
      times: { perSecond: 1000, retryMilliseconds: { first: 10, most: 50 } },
    },
    stop.signal,
  );
  function put(generation: number, conditions?: object[]) {
    const stored = server.put(POLICIES, {
      metadata: { name: "p", namespace: "shop", generation },
      spec: { action: "DENY" },
      ...(conditions === undefined ? {} : { status: { conditions } }),
    });
    const { object } = projectDocument({ apiVersion: "security.istio.io/v1", kind: "AuthorizationPolicy", ...stored });
    assert.ok(object !== null);
    return { reset: false, put: [object], remove: [] };
  }
  const conditions = () =>
    ((server.get(POLICIES, "shop", "p")?.["status"] as { conditions?: Record<string, unknown>[] } | undefined)?.conditions ?? []) as Record<
      string,
      unknown
    >[];
  const own = () => conditions().find(({ type }) => type === ACCEPTED);
  const writes = () => server.requests.filter(({ method }) => method === "PATCH").length;
  return {
    server,
    status,
    put,
    conditions,
    own,
    writes,
    errors,
    lead: () => {
      leader = true;
      status.elected();
    },
  };
}

test("a policy in force says so for the generation that was read, and is not written twice", async (t) => {
  const c = await cluster(t);
  const change = c.put(3);
  c.status.changed(change, []);
  await until("written", () => c.own() !== undefined);
  assert.deepEqual([c.own()?.["status"], c.own()?.["reason"], c.own()?.["observedGeneration"]], ["True", "Accepted", 3]);
  c.status.changed(change, []);
  await c.status.idle();
  assert.equal(c.writes(), 1);
  c.status.changed(c.put(4, c.conditions()), []);
  await until("the new generation", () => c.own()?.["observedGeneration"] === 4);
});

test("what is wrong is said with field, reason and next step; others' conditions stay, and mending it takes it back", async (t) => {
  const c = await cluster(t);
  c.status.changed(c.put(1, [FOREIGN]), [fault("must be ALLOW or DENY")]);
  await until("written", () => c.own()?.["status"] === "False");
  assert.deepEqual([c.own()?.["reason"], c.conditions()[0]], ["E_SOURCE_INVALID", FOREIGN]);
  assert.match(String(c.own()?.["message"]), /^spec\.action: must be ALLOW or DENY \(correct /);
  const since = c.own()?.["lastTransitionTime"];
  c.status.changed({ reset: false, put: [], remove: [] }, [fault("another reason")]);
  await until("another reason", () => String(c.own()?.["message"]).includes("another reason"));
  assert.equal(c.own()?.["lastTransitionTime"], since);
  c.status.changed({ reset: false, put: [], remove: [] }, []);
  await until("mended", () => c.own()?.["status"] === "True");
  assert.deepEqual(c.conditions()[0], FOREIGN);
});

test("only the replica that holds the Lease writes; the one that gets it writes what is missing", async (t) => {
  const c = await cluster(t, false);
  c.status.changed(c.put(1), [fault("wrong")]);
  await c.status.idle();
  assert.equal(c.writes(), 0);
  c.lead();
  await until("written", () => c.own()?.["status"] === "False");
});

test("a policy that changes while it is written to is looked at again; one that is deleted is forgotten", async (t) => {
  const c = await cluster(t);
  let conflicts = 1;
  c.server.fault = ({ method }) => (method === "PATCH" && conflicts-- > 0 ? { status: 409 } : null);
  c.status.changed(c.put(1), []);
  await until("written", () => c.own() !== undefined);
  assert.equal(c.writes(), 2);
  c.server.delete(POLICIES, "shop", "p");
  c.status.changed({ reset: false, put: [], remove: [KEY] }, [fault("of a policy that is gone")]);
  c.status.changed({ reset: false, put: [], remove: [] }, []);
  await c.status.idle();
  assert.equal(c.status.pending(), 0);
});
