// A namespace hears of every recording of its pods, by name of who makes it, before it begins; and the right to it is asked for by its own name.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type AboutRecording, readQuestion } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import type { Pod } from "#mesh/objects.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { type Asked, events, fakeApi } from "../../../test/apiserver.ts";
import { announceRecording } from "./announce.ts";
import { createViewers } from "./viewers.ts";

const web = { kind: "Pod", metadata: { namespace: "shop", name: "web", uid: "uid-web" } } as Pod;

async function cluster(t: TestContext) {
  const server = await fakeApi();
  t.after(() => server.close());
  const api = createApi(server.credentials);
  return { server, api, announce: announceRecording({ api, instance: "replica" }, () => [web]) };
}

const recording = (name: string): AboutRecording =>
  readQuestion({
    about: "recording",
    pods: [{ namespace: "shop", name }],
    peers: [{ namespace: "bank" }],
    limitBytes: 1000,
    limitMilliseconds: 30_000,
    by: "system:serviceaccount:shop:on-call",
  }) as AboutRecording;

test("each recording is an Event of the pod, also the second within an hour", async (t) => {
  const { server, announce } = await cluster(t);
  await announce(recording("web"));
  await announce(recording("web"));
  const told = events(server);
  assert.equal(told.length, 2);
  const [event] = told as unknown as { reason: string; message: string; involvedObject: { uid: string } }[];
  assert.deepEqual([event?.reason, event?.involvedObject.uid], ["TrafficRecorded", "uid-web"]);
  assert.match(event?.message ?? "", /system:serviceaccount:shop:on-call.*bank.*30 s and 1000 bytes/);
});

test("what cannot be announced is refused: a pod that is not there, an API server that takes no Event", async (t) => {
  const { server, announce } = await cluster(t);
  await assert.rejects(announce(recording("nobody")), (error) => isMeshError(error) && error.code === "E_RECORDING_REFUSED");
  server.fault = ({ method }) => (method === "POST" ? { status: 403, body: { kind: "Status", code: 403, message: "no" } } : null);
  await assert.rejects(announce(recording("web")));
  assert.equal(events(server).length, 0);
});

test("the right is to create recordings in the namespace, and no other", async (t) => {
  const { server, api } = await cluster(t);
  const asked: unknown[] = [];
  server.answer = ({ body }: Asked) => {
    const { resourceAttributes } = (body as { spec: { resourceAttributes: unknown } }).spec;
    asked.push(resourceAttributes);
    return { status: { allowed: false } };
  };
  const viewer = { username: "alice", uid: "1", groups: [], extra: {} };
  assert.equal(await createViewers(api).mayRecord(viewer, "shop"), false);
  assert.deepEqual(asked, [{ verb: "create", group: "trackbed.dev", resource: "recordings", namespace: "shop" }]);
});
