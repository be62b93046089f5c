// What the daemon says when its command line or its surroundings do not let it start.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";

const DEADLINE_MS = 30_000;
const MAIN = new URL("main.ts", import.meta.url).pathname;

function place(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "daemon-"));
  t.after(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "mesh"));
  writeFileSync(join(dir, "root.pem"), "no certificate\n");
  writeFileSync(join(dir, "token"), "token\n");
  return { dir, options: { mesh: join(dir, "mesh"), run: join(dir, "run"), root: join(dir, "root.pem"), token: join(dir, "token") } };
}

function start(t: TestContext, options: Record<string, string>) {
  const all = { node: "node-a", control: "https://127.0.0.1:1", ...options };
  const child = spawn(process.execPath, [MAIN, ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, value])], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, TRACKBED_NETNS: "/bin/true" },
    timeout: DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  t.after(() => child.kill("SIGKILL"));
  return child;
}

async function ended(t: TestContext, options: Record<string, string>): Promise<{ code: number | null; text: string }> {
  const child = start(t, options);
  child.stdout.resume();
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  await once(child, "close");
  return { code: child.exitCode, text };
}

test("a directory that cannot be used ends the daemon with one line that names it and its option", async (t) => {
  const { dir, options } = place(t);
  const cases: [Record<string, string>, RegExp][] = [
    [{ mesh: join(dir, "none") }, /none \(--mesh\) does not exist: .*E_DIRECTORY_UNUSABLE; create the directory/],
    [{ run: "/proc/x" }, /\/proc\/x \(--run\) cannot be made/],
    [{ run: join(dir, "token") }, /token \(--run\) cannot be made/],
  ];
  for (const [wrong, message] of cases) {
    const { code, text } = await ended(t, { ...options, ...wrong });
    assert.deepEqual([code, text.trim().split("\n").length], [1, 1], text);
    assert.match(text, message);
  }
});

test("a health port that is taken is named with its option and code", async (t) => {
  const { options } = place(t);
  const holder = createServer().listen(0, "127.0.0.1");
  t.after(() => holder.close());
  await once(holder, "listening");
  const { port } = holder.address() as AddressInfo;
  const { code, text } = await ended(t, { ...options, health: `127.0.0.1:${port}` });
  assert.equal(code, 1);
  assert.match(text, new RegExp(`cannot listen on 127.0.0.1 port ${port} \\(--health\\).*E_DAEMON_LISTEN_FAILED`));
});

test("the log says once why there is no control: an unreadable root, an unreadable token", async (t) => {
  const { dir, options } = place(t);
  const cases: [Record<string, string>, RegExp][] = [
    [{ root: join(dir, "none.pem") }, /none\.pem cannot be read/],
    [{ token: join(dir, "no-token") }, /no-token cannot be read/],
  ];
  for (const [wrong, reason] of cases) {
    const child = start(t, { ...options, ...wrong });
    let told = "";
    for await (const line of createInterface({ input: child.stdout })) {
      const { msg, error } = JSON.parse(line) as { msg: string; error?: string };
      if (msg !== "no control") continue;
      told = error ?? "";
      break;
    }
    assert.match(told, reason);
    child.kill("SIGTERM");
  }
});
