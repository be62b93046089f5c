// Claims about lines to slow readers: they wait for the reader without leaving anything behind, and end when he goes.
import assert from "node:assert/strict";
import { createServer, get, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { LINES, writeLines } from "./lines.ts";

const LINE = "x".repeat(10_000);

/** A server that writes `count` lines; the reader's end of it. */
async function reading(t: TestContext, count: number) {
  const state = { made: 0, over: false, listeners: 0 };
  async function* lines(): AsyncGenerator<string> {
    for (; state.made < count; state.made++) yield LINE;
  }
  const server = createServer((_, response) => {
    response.writeHead(200, LINES);
    void writeLines(response, lines()).then(() => {
      state.listeners = response.listenerCount("close") + response.listenerCount("drain");
      state.over = true;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  const { port } = server.address() as AddressInfo;
  const answer = await new Promise<IncomingMessage>((resolve) => get({ port, host: "127.0.0.1" }, resolve));
  return { state, answer };
}

async function until(holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 5000; !holds(); await new Promise((resolve) => setImmediate(resolve))) assert.ok(Date.now() < end);
}

test("a reader gets every line, and a thousand waits leave no listener behind", async (t) => {
  const { state, answer } = await reading(t, 2000);
  let bytes = 0;
  for await (const chunk of answer) bytes += (chunk as Buffer).length;
  assert.equal(bytes, 2000 * (LINE.length + 1));
  await until(() => state.over);
  assert.ok(state.listeners < 10, `${state.listeners} listeners`);
});

test("a reader who goes while he is waited for ends it", async (t) => {
  const { state, answer } = await reading(t, Number.POSITIVE_INFINITY);
  answer.pause();
  let before = -1;
  await until(() => {
    const still = state.made > 0 && state.made === before;
    before = state.made;
    return still;
  });
  answer.destroy();
  await until(() => state.over);
});
