import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { createApi } from "#source/kubernetes/api.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { holdLease } from "./lease.ts";

const LEASES = "/apis/coordination.k8s.io/v1/leases";
/** Room of more than a second between a renewal and the end of the Lease: on a busy machine 100 ms were not enough. */
const TIMES = { durationMilliseconds: 1500, renewMilliseconds: 300, retryMilliseconds: 20 };

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function cluster(t: TestContext) {
  const api = await fakeApi();
  /** Replicas that cannot reach the API server. */
  const cutOff = new Set<string>();
  api.fault = ({ headers }) => (cutOff.has(String(headers["x-replica"])) ? "cut" : null);
  let most = 0;
  const leading = new Set<string>();
  const errors: unknown[] = [];
  function replica(identity: string) {
    const stop = new AbortController();
    const credentials = {
      ...api.credentials,
      passport: async () => ({ ...(await api.credentials.passport()), headers: { "x-replica": identity } }),
    };
    const lease = holdLease(
      {
        api: createApi(credentials),
        namespace: "trackbed-system",
        name: "trackbed-control",
        identity,
        onChange: (held) => {
          if (held) leading.add(identity);
          else leading.delete(identity);
          most = Math.max(most, leading.size);
        },
        onError: (error) => errors.push(error),
        times: TIMES,
      },
      stop.signal,
    );
    const end = async (): Promise<void> => {
      stop.abort();
      await lease.release();
    };
    t.after(end);
    return { lease, end };
  }
  t.after(() => api.close());
  const spec = () => api.get(LEASES, "trackbed-system", "trackbed-control")?.["spec"] as Record<string, unknown> | undefined;
  return { api, cutOff, replica, leading, errors, most: () => most, spec };
}

test("one of two replicas leads, and goes on leading", async (t) => {
  const c = await cluster(t);
  c.replica("a");
  c.replica("b");
  await until("one leads", () => c.leading.size === 1);
  const [first] = c.leading;
  await new Promise((resolve) => setTimeout(resolve, 3 * TIMES.durationMilliseconds));
  assert.deepEqual([[...c.leading], c.most(), c.spec()?.["holderIdentity"]], [[first], 1, first]);
});

test("a leader that ends gives the Lease back, and the other leads at once", async (t) => {
  const c = await cluster(t);
  const a = c.replica("a");
  await until("a leads", () => a.lease.held());
  const b = c.replica("b");
  const began = performance.now();
  await a.end();
  await until("b leads", () => b.lease.held());
  assert.ok(performance.now() - began < TIMES.durationMilliseconds);
  assert.equal(c.spec()?.["leaseTransitions"], 1);
});

test("a leader that cannot renew stops before the other begins, also when the wall clock of one is a day off", async (t) => {
  const c = await cluster(t);
  const a = c.replica("a");
  await until("a leads", () => a.lease.held());
  const b = c.replica("b");
  const real = Date.now;
  t.after(() => Object.assign(Date, { now: real }));
  Date.now = () => real() + 86_400_000;
  await new Promise((resolve) => setTimeout(resolve, TIMES.durationMilliseconds));
  assert.ok(a.lease.held(), "a clock that jumps takes nothing away");
  c.cutOff.add("a");
  await until("b leads", () => b.lease.held());
  assert.deepEqual([a.lease.held(), c.most()], [false, 1]);
  assert.ok(c.errors.length > 0);
});
