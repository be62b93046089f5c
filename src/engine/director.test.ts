// Claims about the director, tried with a gRPC client of its own on a real Unix socket.
import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import {
  AddPodSchema,
  CertificateReplySchema,
  Director as DirectorService,
  type FromEngine,
  FromEngineSchema,
  type HelloSchema,
  MeshSettingsSchema,
  type ReportBatch,
  ReportBatchSchema,
  ResourceType,
  type ToEngine,
} from "#contract/gen/engine_pb.ts";
import { isMeshError } from "#mesh/error.ts";
import type { Director, DirectorEvents, StateResource } from "./director.ts";
import { startDirector } from "./local-director.ts";

const { ADDRESS, AUTHORIZATION } = ResourceType;
/** Longest wait for something that must come. */
const DEADLINE_MS = 5000;

const address = (name: string, version: string, bytes = 4): StateResource => ({
  type: ADDRESS,
  name,
  version,
  body: new Uint8Array(bytes),
});
const policy = (name: string, version: string): StateResource => ({ type: AUTHORIZATION, name, version, body: new Uint8Array(4) });

type Said = NonNullable<MessageInitShape<typeof FromEngineSchema>["message"]>;

type Engine = {
  say(message: Said): void;
  /** The next message, which must be of this case. */
  hear<C extends ToEngine["message"]["case"]>(of: C): Promise<Extract<ToEngine["message"], { case: C }>["value"]>;
  /** How the stream ended; nothing but this may come any more. */
  ended(): Promise<ConnectError | null>;
  hangUp(): void;
};

function client(path: string) {
  return createClient(
    DirectorService,
    createGrpcTransport({ baseUrl: "http://engine", nodeOptions: { createConnection: () => createConnection(path) } }),
  );
}

function engine(t: TestContext, path: string, hello: MessageInitShape<typeof HelloSchema> = {}): Engine {
  const said: FromEngine[] = [];
  let wake: () => void = () => undefined;
  const stop = new AbortController();
  t.after(() => stop.abort());
  async function* outgoing(): AsyncGenerator<FromEngine> {
    for (;;) {
      const message = said.shift();
      if (message === undefined) await new Promise<void>((resolve) => (wake = resolve));
      else yield message;
    }
  }
  const say: Engine["say"] = (message) => {
    said.push(create(FromEngineSchema, { message }));
    wake();
  };
  say({ case: "hello", value: { contractVersion: 1, engineVersion: "test", instance: "one", bootId: "boot", ...hello } });
  const heard = client(path).attach(outgoing(), { signal: stop.signal })[Symbol.asyncIterator]();
  const next = () => {
    const late = AbortSignal.timeout(DEADLINE_MS);
    return Promise.race([
      heard.next(),
      new Promise<never>((_, reject) => late.addEventListener("abort", () => reject(new Error("the director said nothing")))),
    ]);
  };
  return {
    say,
    hear: async (of) => {
      const { value, done } = await next();
      assert.equal(done, false, "the stream ended");
      assert.equal(value.message.case, of);
      return value.message.value as never;
    },
    ended: async () => {
      try {
        const { done, value } = await next();
        assert.equal(done, true, `heard ${value?.message.case}`);
        return null;
      } catch (error) {
        return ConnectError.from(error);
      }
    },
    hangUp: () => stop.abort(),
  };
}

type Seen = { director: Director; path: string; log: string[]; batches: ReportBatch[]; until(text: string): Promise<void> };

async function start(t: TestContext, events: Partial<DirectorEvents> = {}): Promise<Seen> {
  const directory = await mkdtemp(join(tmpdir(), "director-"));
  const path = join(directory, "run", "director.sock");
  const log: string[] = [];
  const batches: ReportBatch[] = [];
  const waiting = new Map<string, () => void>();
  const note = (text: string): void => {
    log.push(text);
    waiting.get(text)?.();
  };
  const { director, close } = await startDirector({
    path,
    version: "test",
    settings: create(MeshSettingsSchema, { node: "a", trustDomain: "cluster.local" }),
    events: {
      attached: (hello) => note(`attached ${hello.instance}`),
      detached: () => note("detached"),
      podState: ({ uid }) => note(`podState ${uid}`),
      podGone: ({ uid }) => note(`podGone ${uid}`),
      drift: ({ uid }) => note(`drift ${uid}`),
      applied: (generation, rejected) => note(`applied ${generation} rejected ${rejected.length}`),
      certificate: async ({ requestId }) => create(CertificateReplySchema, { requestId, code: "E_CONTROL_AWAY", reason: "test" }),
      report: (batch) => {
        batches.push(batch);
      },
      ...events,
    },
  });
  t.after(async () => {
    await close();
    await rm(directory, { recursive: true });
  });
  const until = async (text: string): Promise<void> => {
    if (log.includes(text)) return;
    const come = Promise.withResolvers<void>();
    waiting.set(text, come.resolve);
    const timer = setTimeout(() => come.reject(new Error(`no "${text}" in ${JSON.stringify(log)}`)), DEADLINE_MS);
    await come.promise.finally(() => clearTimeout(timer));
  };
  return { director, path, log, batches, until };
}

test("the socket is for its owner alone", async (t) => {
  const { path } = await start(t);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.equal((await stat(join(path, ".."))).mode & 0o777, 0o700);
});

test("an engine that holds nothing gets settings, everything and InSync, policies before addresses", async (t) => {
  const { director, path, until } = await start(t);
  director.setState({ reset: true, upsert: [address("w", "1"), policy("p", "1")], remove: [] });
  const e = engine(t, path);
  assert.equal((await e.hear("welcome")).settings?.node, "a");
  const delta = await e.hear("state");
  assert.deepEqual(
    delta.upsert.map(({ name }) => name),
    ["p", "w"],
  );
  director.inSync();
  e.say({ case: "applied", value: { generation: delta.generation, rejected: [{ name: "p" }] } });
  await e.hear("inSync");
  await until(`applied ${delta.generation} rejected 1`);
  assert.equal(director.acknowledged, delta.generation);
});

test("an engine that holds something gets only the difference, in a generation above its own", async (t) => {
  const { director, path } = await start(t);
  director.setState({ reset: true, upsert: [address("same", "1"), address("changed", "2"), address("new", "1")], remove: [] });
  const held = [
    { type: ADDRESS, name: "same", version: "1" },
    { type: ADDRESS, name: "changed", version: "1" },
    { type: ADDRESS, name: "old", version: "1" },
  ];
  const e = engine(t, path, { generation: 41n, resources: held });
  await e.hear("welcome");
  const delta = await e.hear("state");
  assert.equal(delta.generation, 42n);
  assert.equal(delta.reset, false);
  assert.deepEqual(delta.upsert.map(({ name }) => name).sort(), ["changed", "new"]);
  assert.deepEqual(
    delta.remove.map(({ name }) => name),
    ["old"],
  );
});

test("nothing is taken from an engine while the state is not known", async (t) => {
  const { director, path } = await start(t);
  const e = engine(t, path, { resources: [{ type: ADDRESS, name: "kept", version: "1" }] });
  await e.hear("welcome");
  director.inSync();
  director.addPod(create(AddPodSchema, { uid: "u" }));
  await e.hear("addPod"); // not a delta, not InSync
  director.setState({ reset: true, upsert: [address("kept", "1")], remove: [] });
  await e.hear("inSync");
});

test("changes merge while a delta is not acknowledged", async (t) => {
  const { director, path } = await start(t);
  director.setState({ reset: true, upsert: [address("a", "1")], remove: [] });
  const e = engine(t, path);
  await e.hear("welcome");
  const first = await e.hear("state");
  for (let version = 2; version <= 50; version++) director.setState({ reset: false, upsert: [address("a", `${version}`)], remove: [] });
  director.setState({ reset: false, upsert: [address("b", "1")], remove: [] });
  director.setState({ reset: false, upsert: [], remove: [{ type: ADDRESS, name: "b" }] });
  e.say({ case: "applied", value: { generation: first.generation } });
  const second = await e.hear("state");
  assert.deepEqual(
    second.upsert.map(({ name, version }) => [name, version]),
    [["a", "50"]],
  );
  assert.equal(second.remove.length, 0);
});

test("a state larger than one message comes in several deltas that lack nothing", async (t) => {
  const { director, path } = await start(t);
  const all = Array.from({ length: 12 }, (_, i) => address(`w${i}`, "1", 600_000));
  director.setState({ reset: true, upsert: all, remove: [] });
  const e = engine(t, path);
  await e.hear("welcome");
  const names: string[] = [];
  let deltas = 0;
  for (; names.length < all.length; deltas++) {
    const delta = await e.hear("state");
    names.push(...delta.upsert.map(({ name }) => name));
    e.say({ case: "applied", value: { generation: delta.generation } });
  }
  assert.ok(deltas > 1);
  assert.deepEqual(names.sort(), all.map(({ name }) => name).sort());
});

test("a second stream takes the place of the first", async (t) => {
  const { director, path, until, log } = await start(t);
  const first = engine(t, path, { instance: "one" });
  await first.hear("welcome");
  const second = engine(t, path, { instance: "two" });
  await second.hear("welcome");
  assert.equal(await first.ended(), null);
  await until("attached two");
  assert.equal(director.hello?.instance, "two");
  assert.ok(!log.includes("detached"), "the old stream's end must not hide the new engine");
});

test("an engine that goes away is missed, its proofs fail, and it may come back", async (t) => {
  const { director, path, until } = await start(t);
  const first = engine(t, path);
  await first.hear("welcome");
  const proof = director.prove("u");
  await first.hear("prove");
  first.hangUp();
  await assert.rejects(proof, (error) => isMeshError(error) && error.code === "E_ENGINE_AWAY");
  await until("detached");
  assert.equal(director.connected, false);
  assert.equal(director.addPod(create(AddPodSchema, { uid: "u" })), false);
  await assert.rejects(director.prove("u"), (error) => isMeshError(error) && error.code === "E_ENGINE_AWAY");
  await engine(t, path).hear("welcome");
});

test("a proof is answered by its own number", async (t) => {
  const { director, path } = await start(t);
  const e = engine(t, path);
  await e.hear("welcome");
  const [good, bad] = [director.prove("good"), director.prove("bad")];
  const first = await e.hear("prove");
  const second = await e.hear("prove");
  e.say({ case: "proofResult", value: { requestId: second.requestId, uid: "bad", code: "E_CAPTURE_PROOF_FAILED", reason: "timed out" } });
  e.say({ case: "proofResult", value: { requestId: first.requestId, uid: "good" } });
  await assert.rejects(bad, /timed out/);
  await good;
});

test("a certificate request is answered by its own number", async (t) => {
  const { path } = await start(t);
  const e = engine(t, path);
  await e.hear("welcome");
  e.say({ case: "certificateRequest", value: { requestId: 7n, identity: "spiffe://cluster.local/ns/a/sa/b" } });
  const reply = await e.hear("certificateReply");
  assert.deepEqual([reply.requestId, reply.code], [7n, "E_CONTROL_AWAY"]);
});

test("another contract version is turned away with both versions named", async (t) => {
  const { path } = await start(t);
  const error = await engine(t, path, { contractVersion: 2 }).ended();
  assert.equal(error?.code, Code.FailedPrecondition);
  assert.match(error?.message ?? "", /version 2.*1.*E_CONTRACT_VERSION/);
});

test("what is not in the contract ends the stream with INVALID_ARGUMENT", async (t) => {
  const { path } = await start(t);
  const bad: Said[] = [
    { case: undefined },
    { case: "drift", value: { uid: "u", kind: 99 as never } },
    { case: "applied", value: { generation: 99n } },
    { case: "hello", value: {} },
  ];
  for (const message of bad) {
    const e = engine(t, path);
    await e.hear("welcome");
    e.say(message);
    assert.equal((await e.ended())?.code, Code.InvalidArgument, JSON.stringify(message.case));
  }
});

test("report batches are counted, and a bad one ends the stream", async (t) => {
  const { path, batches } = await start(t);
  async function* two() {
    yield create(ReportBatchSchema, { flows: [new Uint8Array([8, 1]), new Uint8Array()], events: [{}] });
    yield create(ReportBatchSchema, { flows: [new Uint8Array()] });
  }
  assert.equal((await client(path).report(two())).received, 4n);
  assert.equal(batches.length, 2);
  const strict = await start(t, {
    report: () => {
      throw new Error("flow of no phase");
    },
  });
  await assert.rejects(client(strict.path).report(two()), (error) => ConnectError.from(error).code === Code.InvalidArgument);
});

test("a director that starts again on the same path is found there", async (t) => {
  const { path } = await start(t);
  const again = await startDirector({
    path,
    version: "again",
    settings: create(MeshSettingsSchema, { node: "b" }),
    events: {
      attached: () => undefined,
      detached: () => undefined,
      podState: () => undefined,
      podGone: () => undefined,
      drift: () => undefined,
      applied: () => undefined,
      certificate: async () => create(CertificateReplySchema),
      report: () => undefined,
    },
  });
  t.after(() => again.close());
  assert.equal((await engine(t, path).hear("welcome")).directorVersion, "again");
});
