// Claims about the admin API, asked over a real Unix socket.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { listenOn } from "#engine/socket.ts";
import type { FlowLine } from "#inspect/flow.ts";
import type { RecordingLine } from "#inspect/pcap/recording.ts";
import type { AdminError, LogLevelRequest, NodeStatus, PodExplanation } from "#inspect/status.ts";
import { type AdminSources, adminServer } from "./admin.ts";

const status = { node: "a" } as NodeStatus;
const web = { name: "web" } as PodExplanation;

async function start(t: TestContext, more: Partial<AdminSources> = {}) {
  const directory = await mkdtemp(join(tmpdir(), "admin-"));
  const path = join(directory, "admin.sock");
  const sources: AdminSources = {
    status: () => status,
    pod: (namespace, name) => (namespace === "shop" && name === "web" ? web : null),
    flows: async function* (): AsyncGenerator<FlowLine> {
      yield { type: "dropped", count: 1 };
    },
    state: () => [],
    record: async function* (): AsyncGenerator<RecordingLine> {
      yield { type: "ended", why: "time" };
    },
    answer: async function* () {
      yield { time: 0, line: { type: "cut", limit: 1 } };
    },
    setLogLevel: () => null,
    ...more,
  };
  const server = adminServer(sources, (error) => assert.fail(String(error)));
  await listenOn(server, path);
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await rm(directory, { recursive: true });
  });
  return (method: string, url: string, body = ""): Promise<{ code: number; text: string }> =>
    new Promise((resolve, reject) => {
      const asked = request({ socketPath: path, method, path: url }, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
        response.on("end", () => resolve({ code: response.statusCode ?? 0, text }));
      });
      asked.on("error", reject);
      asked.end(body);
    });
}

test("status and pods are JSON", async (t) => {
  const ask = await start(t);
  assert.deepEqual(JSON.parse((await ask("GET", "/v1/status")).text), status);
  assert.deepEqual(JSON.parse((await ask("GET", "/v1/pods/shop/web")).text), web);
});

test("what is not there says what is, with a next step", async (t) => {
  const ask = await start(t);
  for (const [method, url, code] of [
    ["GET", "/v1/pods/shop/nobody", 404],
    ["GET", "/nothing", 404],
    ["POST", "/v1/status", 405],
    ["GET", "/v1/log-level", 405],
    ["GET", "/v1/flows?since=yesterday", 400],
    ["GET", "/v1/flows?follow=maybe", 400],
  ] as const) {
    const answer = await ask(method, url);
    const error = JSON.parse(answer.text) as AdminError;
    assert.deepEqual([answer.code, error.code, error.next], [code, "E_USAGE", "see --help"], url);
    assert.ok(error.message.length > 0);
  }
});

test("flows are lines, asked for from a time on", async (t) => {
  const asked: [number, boolean][] = [];
  const ask = await start(t, {
    flows: async function* (since, follow): AsyncGenerator<FlowLine> {
      asked.push([since, follow]);
      yield { type: "dropped", count: 1 };
      yield { type: "dropped", count: 2 };
    },
  });
  const { text } = await ask("GET", "/v1/flows?follow=true&since=1970-01-01T00:00:05Z");
  assert.deepEqual(asked, [[5000, true]]);
  assert.deepEqual(
    text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown),
    [
      { type: "dropped", count: 1 },
      { type: "dropped", count: 2 },
    ],
  );
});

test("the state is lines: the node, then each resource", async (t) => {
  const about = {
    node: "a",
    inForce: true,
    settings: { trustDomain: "cluster.local", clusterDomain: "cluster.local", network: "", encryptSameNode: false },
  };
  const resource = { type: "address", name: "shop/api", version: "1", body: "AA==" } as const;
  const ask = await start(t, { state: () => [{ about }, { resource }] });
  const { code, text } = await ask("GET", "/v1/state");
  assert.equal(code, 200);
  const lines = text.trim().split("\n");
  assert.deepEqual(
    lines.map((line) => JSON.parse(line) as unknown),
    [{ about }, { resource }],
  );
});

test("a log level is checked before it is set, and an engine that is away is named", async (t) => {
  const set: LogLevelRequest[] = [];
  const ask = await start(t, {
    setLogLevel: (level) => {
      set.push(level);
      return level.engine === undefined ? null : { code: "E_ENGINE_AWAY", message: "no engine" };
    },
  });
  assert.equal((await ask("POST", "/v1/log-level", '{"daemon":"debug"}')).code, 200);
  assert.equal((await ask("POST", "/v1/log-level", '{"engine":"info,hbone=debug"}')).code, 503);
  for (const bad of ['{"daemon":"loud"}', '{"deamon":"debug"}', "debug"])
    assert.equal((await ask("POST", "/v1/log-level", bad)).code, 400, bad);
  assert.equal((await ask("POST", "/v1/log-level", "x".repeat(20_000))).code, 413);
  assert.deepEqual(set, [{ daemon: "debug" }, { engine: "info,hbone=debug" }]);
});
