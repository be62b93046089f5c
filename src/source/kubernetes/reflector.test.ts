import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type FakeApi, fakeApi } from "../../../test/apiserver.ts";
import { createApi } from "./api.ts";
import { apiFailure } from "./failure.ts";
import { lines } from "./lines.ts";
import { type Cause, REFLECTOR_TIMES, type ReflectorTimes, reflect } from "./reflector.ts";
import { NAMESPACES, PODS, type Resource } from "./resources.ts";

const DEADLINE_MILLISECONDS = 10_000;
const PODS_PATH = "/api/v1/pods";
const POLICIES: Resource = {
  kind: "AuthorizationPolicy",
  apiVersion: "security.istio.io/v1",
  root: "/apis/security.istio.io/v1",
  plural: "authorizationpolicies",
  query: {},
  definition: "authorizationpolicies.security.istio.io",
  older: [],
};
const POLICIES_PATH = "/apis/security.istio.io/v1/authorizationpolicies";
const DEFINITIONS_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/** As in production, a hundred times faster. */
const TIMES: ReflectorTimes = {
  ...REFLECTOR_TIMES,
  idleMilliseconds: 300,
  backoffMilliseconds: { first: 5, most: 50 },
  healthyMilliseconds: 50,
  absentMilliseconds: 20,
};

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + DEADLINE_MILLISECONDS; !condition(); ) {
    if (performance.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const pod = (name: string, more: object = {}) => ({ metadata: { name, namespace: "shop", ...more } });

async function follow(
  t: TestContext,
  resource: Resource,
  prepare: (api: FakeApi) => void = () => undefined,
  times: Partial<ReflectorTimes> = {},
) {
  const api = await fakeApi();
  prepare(api);
  const stop = new AbortController();
  /** What a consumer of the steps believes. */
  const held = new Map<string, string>();
  const steps: string[] = [];
  const causes: Cause[] = [];
  const errors: unknown[] = [];
  const project = (raw: { metadata: { name: string; resourceVersion: string } }) =>
    [raw.metadata.name, raw.metadata.resourceVersion] as const;
  const events = {
    onAlive: () => undefined,
    onRestart: (cause: Cause, error: unknown) => {
      causes.push(cause);
      errors.push(error);
    },
  };
  const options = {
    api: createApi(api.credentials, { answerMilliseconds: 300 }),
    resource,
    project,
    events,
    times: { ...TIMES, ...times },
  };
  const running = (async () => {
    for await (const step of reflect(options, stop.signal)) {
      steps.push(step.kind);
      if (step.kind !== "changed") held.clear();
      if (step.kind === "listed") for (const [name, version] of step.items) held.set(name, version);
      if (step.kind === "changed")
        for (const { gone, item } of step.events) {
          if (gone) held.delete(item[0]);
          else held.set(...item);
        }
    }
  })();
  t.after(async () => {
    stop.abort();
    await running;
    await api.close();
  });
  const asked = (watch: boolean) =>
    api.requests.filter(
      ({ collection, query, name }) =>
        name === "" && collection === `${resource.root}/${resource.plural}` && (query.get("watch") === "1") === watch,
    );
  return { api, held, steps, causes, errors, lists: () => asked(false), watches: () => asked(true), stop, running };
}

const names = (held: Map<string, string>): string[] => [...held.keys()].sort();

test("a list in pages, then each event, arrive in order and as the server has them", async (t) => {
  const f = await follow(t, PODS, (api) => {
    for (let i = 0; i < 1200; i++) api.put(PODS_PATH, pod(`p${i}`));
  });
  await until("listed", () => f.held.size === 1200);
  assert.deepEqual(
    f.lists().map(({ query }) => [query.get("limit"), query.get("continue")]),
    [
      ["500", null],
      ["500", "500"],
      ["500", "1000"],
    ],
  );
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  const watch = f.watches()[0];
  assert.deepEqual([watch?.query.get("resourceVersion"), watch?.query.get("allowWatchBookmarks")], ["1300", "true"]);
  f.api.put(PODS_PATH, pod("new"));
  f.api.delete(PODS_PATH, "shop", "p0");
  await until("the events", () => f.held.has("new") && !f.held.has("p0"));
  assert.deepEqual(f.causes, []);
});

test("a selector goes with the list and with the watch", async (t) => {
  const f = await follow(t, { ...PODS, query: { fieldSelector: "spec.nodeName=a" } }, (api) => {
    api.put(PODS_PATH, { ...pod("here"), spec: { nodeName: "a" } });
    api.put(PODS_PATH, { ...pod("there"), spec: { nodeName: "b" } });
  });
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  assert.deepEqual(names(f.held), ["here"]);
  assert.equal(f.watches()[0]?.query.get("fieldSelector"), "spec.nodeName=a");
});

test("a watch that falls silent without closing is given up and continued from its version, without a new list", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  await until("given up", () => f.causes.includes("quiet"));
  f.api.put(PODS_PATH, pod("b"));
  await until("the event of the next watch", () => f.held.has("b"));
  assert.equal(f.lists().length, 1);
});

test("a server that is away behind a quiet watch is found out by the next one, and asked again until it is back", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.fault = () => "silence";
  await until("found out", () => f.causes.filter((cause) => cause === "quiet" || cause === "silent").length >= 3);
  f.api.put(PODS_PATH, pod("b"));
  f.api.fault = () => null;
  await until("the event", () => f.held.has("b"));
  assert.deepEqual([f.lists().length, f.errors.length > 0], [1, true]);
});

test("bookmarks keep a quiet watch alive and move its version on", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.setVersion(5000);
  const began = performance.now();
  while (performance.now() - began < 3 * TIMES.idleMilliseconds) {
    f.api.bookmark(PODS_PATH);
    await new Promise((resolve) => setTimeout(resolve, TIMES.idleMilliseconds / 6));
  }
  assert.deepEqual(f.causes, []);
  f.api.watches(PODS_PATH)[0]?.end();
  await until("the next watch", () => f.watches().length === 2);
  assert.equal(f.watches()[1]?.query.get("resourceVersion"), "5000");
});

test("HTTP 500 on the next watch loses no event and no list", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  let failures = 3;
  f.api.fault = ({ query }) => (query.get("watch") === "1" && failures-- > 0 ? { status: 500 } : null);
  f.api.watches(PODS_PATH)[0]?.end();
  f.api.put(PODS_PATH, pod("missed"));
  await until("the event", () => f.held.has("missed"));
  assert.deepEqual([f.lists().length, f.causes.filter((cause) => cause === "failed").length], [1, 3]);
});

test("an early close storm is slowed down by the back-off; a watch that lived is followed at once", async (t) => {
  const f = await follow(t, PODS, () => undefined, { backoffMilliseconds: { first: 20, most: 1000 } });
  const began = performance.now();
  while (performance.now() - began < 500) {
    for (const watch of f.api.watches(PODS_PATH)) watch.end();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  assert.ok(f.watches().length <= 9, `${f.watches().length} watches`);
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.bookmark(PODS_PATH);
  await new Promise((resolve) => setTimeout(resolve, 2 * TIMES.healthyMilliseconds));
  const before = f.watches().length;
  const ended = performance.now();
  f.api.watches(PODS_PATH)[0]?.end();
  await until("the next watch", () => f.watches().length === before + 1);
  assert.ok(performance.now() - ended < 100);
});

test("410 in mid-stream lists again, and what was deleted meanwhile is gone", async (t) => {
  const f = await follow(t, PODS, (api) => {
    api.put(PODS_PATH, pod("a"));
    api.put(PODS_PATH, pod("b"));
  });
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  const watch = f.api.watches(PODS_PATH)[0];
  f.api.fault = ({ query }) => (query.get("watch") === "1" ? { status: 500 } : null);
  watch?.end();
  await until("cut off", () => f.causes.includes("failed"));
  f.api.delete(PODS_PATH, "shop", "a");
  f.api.put(PODS_PATH, pod("c"));
  f.api.compact();
  f.api.fault = () => null;
  await until("listed again", () => f.held.has("c"));
  assert.deepEqual([names(f.held), f.lists().length, f.causes.includes("gone")], [["b", "c"], 2, true]);
});

test("410 as an event of a living watch lists again", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.watches(PODS_PATH)[0]?.write('{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n');
  await until("listed again", () => f.lists().length === 2);
  assert.deepEqual(f.causes, ["gone"]);
});

test("versions that went back in time, as after a restored backup, list again", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.setVersion(7);
  f.api.bookmark(PODS_PATH);
  await until("listed again", () => f.lists().length === 2);
  assert.deepEqual(f.causes, ["gone"]);
});

test("half a line at the end of a stream is no event, and the next watch brings the whole one", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  const watch = f.api.watches(PODS_PATH)[0];
  watch?.write('{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"shop","uid":"u","resourceVersion":"9');
  watch?.end();
  await until("the next watch", () => f.api.watches(PODS_PATH).length === 1 && f.watches().length === 2);
  assert.deepEqual([names(f.held), f.watches()[1]?.query.get("resourceVersion")], [["a"], "101"]);
});

test("a line that cannot be read, or has no end, lists again instead of asking for the same line for ever", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  f.api.watches(PODS_PATH)[0]?.write("{]\n");
  await until("listed again", () => f.lists().length === 2);
  await until("watched again", () => f.api.watches(PODS_PATH).length === 1);
  f.api.watches(PODS_PATH)[0]?.write('{"type":"ADDED","object":{"metadata":{}}}\n');
  await until("listed a third time", () => f.lists().length === 3);
  assert.deepEqual(f.causes, ["unreadable", "unreadable"]);
});

test("a page that fails lists again from the start: half a list never says what is absent", async (t) => {
  let failures = 1;
  const f = await follow(t, PODS, (api) => {
    for (let i = 0; i < 700; i++) api.put(PODS_PATH, pod(`p${i}`));
    api.fault = ({ query }) => (query.has("continue") && failures-- > 0 ? { status: 500 } : null);
  });
  await until("listed", () => f.held.size === 700);
  assert.deepEqual(f.steps, ["listed"]);
});

test("a list whose token expired between pages is asked for in larger pages, one that is slow in smaller ones", async (t) => {
  let expired = 1;
  let slow = 1;
  const f = await follow(t, PODS, (api) => {
    for (let i = 0; i < 700; i++) api.put(PODS_PATH, pod(`p${i}`));
    api.fault = ({ query }) => {
      if (query.has("continue") && expired-- > 0) return { status: 410 };
      return query.get("limit") === "2000" && slow-- > 0 ? "silence" : null;
    };
  });
  await until("listed", () => f.held.size === 700);
  assert.deepEqual(
    f.lists().map(({ query }) => query.get("limit")),
    ["500", "500", "2000", "1000"],
  );
});

test("a server that asks us to wait is waited for", async (t) => {
  let refusals = 1;
  const f = await follow(t, PODS, (api) => {
    api.fault = () => (refusals-- > 0 ? { status: 429, headers: { "retry-after": "1" } } : null);
  });
  const began = performance.now();
  await until("listed", () => f.steps.length === 1);
  assert.ok(performance.now() - began > 900);
});

test("a kind that the cluster lacks is nothing, and is found when it comes", async (t) => {
  const f = await follow(t, POLICIES, (api) => api.serve(DEFINITIONS_PATH));
  await until("absent", () => f.steps.includes("absent"));
  f.api.put(POLICIES_PATH, pod("p"));
  await until("found", () => f.held.has("p"));
  assert.ok(f.steps.lastIndexOf("absent") < f.steps.indexOf("listed"));
});

test("a kind that the cluster has in an older version only is read in that version, until it has the newer one", async (t) => {
  const ROUTES: Resource = {
    kind: "TCPRoute",
    apiVersion: "gateway.networking.k8s.io/v1",
    root: "/apis/gateway.networking.k8s.io/v1",
    plural: "tcproutes",
    query: {},
    definition: "tcproutes.gateway.networking.k8s.io",
    older: ["v1alpha3", "v1alpha2"],
  };
  const [older, newer] = ["v1alpha2", "v1"].map((one) => `/apis/gateway.networking.k8s.io/${one}/tcproutes`) as [string, string];
  const serving = (...served: string[]) => ({
    metadata: { name: ROUTES.definition ?? "" },
    spec: { versions: ["v1", "v1alpha3", "v1alpha2"].map((name) => ({ name, served: served.includes(name) })) },
  });
  const f = await follow(t, ROUTES, (api) => {
    api.put(DEFINITIONS_PATH, serving("v1alpha2"));
    api.put(older, pod("old"));
  });
  await until("read", () => f.held.has("old"));
  assert.deepEqual([f.causes, f.steps.includes("absent")], [["elsewhere"], false]);
  f.api.put(DEFINITIONS_PATH, serving("v1"));
  f.api.put(newer, pod("old"));
  f.api.put(newer, pod("new"));
  f.api.unserve(older);
  f.api.watches(older)[0]?.end();
  await until("read anew", () => f.held.has("new"));
  assert.deepEqual(names(f.held), ["new", "old"]);
  f.api.put(DEFINITIONS_PATH, serving());
  f.api.unserve(newer);
  f.api.watches(newer)[0]?.end();
  await until("none that we can read", () => f.steps.includes("absent"));
  assert.deepEqual(names(f.held), []);
});

test("404 while the definition exists is a server that starts: what was read stays", async (t) => {
  const f = await follow(t, POLICIES, (api) => {
    api.put(DEFINITIONS_PATH, { metadata: { name: POLICIES.definition ?? "" } });
    api.put(POLICIES_PATH, pod("p"));
  });
  await until("listed", () => f.held.has("p"));
  f.api.fault = ({ collection }) => (collection === POLICIES_PATH ? { status: 404 } : null);
  f.api.watches(POLICIES_PATH)[0]?.end();
  await until("asked again", () => f.causes.filter((cause) => cause === "failed").length >= 3);
  assert.deepEqual([names(f.held), f.steps.includes("absent")], [["p"], false]);
  f.api.fault = ({ collection }) =>
    collection === POLICIES_PATH ? { status: 404 } : collection === DEFINITIONS_PATH ? { status: 403 } : null;
  await until("the definition may not be read", () => f.causes.includes("forbidden"));
  assert.deepEqual([names(f.held), f.steps.includes("absent")], [["p"], false]);
});

test("a kind whose definition is deleted goes with all its objects", async (t) => {
  const f = await follow(t, POLICIES, (api) => {
    api.serve(DEFINITIONS_PATH);
    api.put(POLICIES_PATH, pod("p"));
  });
  await until("watched", () => f.api.watches(POLICIES_PATH).length === 1);
  f.api.unserve(POLICIES_PATH);
  f.api.watches(POLICIES_PATH)[0]?.end();
  await until("absent", () => f.steps.includes("absent"));
  assert.deepEqual(names(f.held), []);
});

test("credentials that are refused are read again, and what was held stays", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")));
  let renewed = 0;
  Object.assign(f.api.credentials, { renew: () => renewed++ });
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  let refusals = 2;
  f.api.fault = () => (refusals-- > 0 ? { status: 401 } : null);
  f.api.watches(PODS_PATH)[0]?.end();
  await until("watched again", () => f.api.watches(PODS_PATH).length === 1);
  assert.deepEqual([renewed, f.causes.filter((cause) => cause === "forbidden").length, names(f.held)], [2, 2, ["a"]]);
});

test("the wall clock may jump a day: nothing waits for it and nothing is given up by it", async (t) => {
  const f = await follow(t, PODS, (api) => api.put(PODS_PATH, pod("a")), { idleMilliseconds: 60_000 });
  await until("watched", () => f.api.watches(PODS_PATH).length === 1);
  const real = Date.now;
  t.after(() => Object.assign(Date, { now: real }));
  for (const hours of [24, -24]) {
    Date.now = () => real() + hours * 3_600_000;
    f.api.put(PODS_PATH, pod(`after-${hours}`));
    await until("the event", () => f.held.has(`after-${hours}`));
    f.api.watches(PODS_PATH)[0]?.destroy();
    await until("watched again", () => f.api.watches(PODS_PATH).length === 1);
  }
  assert.ok(
    f.causes.every((cause) => cause === "silent" || cause === "failed"),
    String(f.causes),
  );
});

test("whoever stops it ends its requests at once", async (t) => {
  const f = await follow(t, NAMESPACES);
  await until("watched", () => f.api.watches("/api/v1/namespaces").length === 1);
  f.stop.abort();
  await f.running;
  await until("closed", () => f.api.watches("/api/v1/namespaces").length === 0);
});

test("a failure names method, path, status and the server's words, and its code says who has to act", () => {
  const of = (status: number) => apiFailure("GET", "/api/v1/pods", { status, reason: "", message: "why" });
  assert.equal(of(403).message, "GET /api/v1/pods: HTTP 403 why");
  assert.deepEqual(
    [0, 401, 403, 404, 409, 422, 429, 500, 503].map((status) => of(status).code),
    [
      "E_API_UNREACHABLE",
      "E_API_FORBIDDEN",
      "E_API_FORBIDDEN",
      "E_API_REJECTED",
      "E_API_REJECTED",
      "E_API_REJECTED",
      "E_API_UNREACHABLE",
      "E_API_UNREACHABLE",
      "E_API_UNREACHABLE",
    ],
  );
});

test("lines are whole whatever the chunks are: split characters are joined and no line grows without end", async () => {
  async function* chunks(text: string, size: number) {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  }
  for (const size of [1, 2, 3, 5, 100]) {
    const found: string[] = [];
    for await (const some of lines(chunks("änderung\n\n日本\nhalf", size))) found.push(...some);
    assert.deepEqual(found, ["änderung", "", "日本"], `chunks of ${size}`);
  }
  await assert.rejects(async () => {
    for await (const _ of lines(chunks("x".repeat(100), 7), 50));
  }, RangeError);
});
