// Claims about which connections of a pod count as not meshed, on listings as ss prints them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { unmeshed } from "./unmeshed.ts";

const line = (local: string, remote: string, more = ""): string => `0      0      ${local} ${remote} ino:1 sk:2 ${more} cgroup:/ <->\n`;
const ENGINE = "fwmark:0x539";

test("a connection from before the capture counts, in both directions", () => {
  assert.equal(unmeshed(line("10.0.0.1:40000", "10.0.0.2:80") + line("10.0.0.1:8080", "10.0.0.3:50000")), 2);
});

test("a captured outbound connection, the engine's end of it and its tunnel do not count", () => {
  const app = line("10.0.0.1:40000", "10.96.0.1:80");
  const captured = line("127.0.0.1:15001", "10.0.0.1:40000", ENGINE);
  const tunnel = line("10.0.0.1:40001", "10.0.1.1:15008", ENGINE);
  assert.equal(unmeshed(app + captured + tunnel), 0);
});

test("what the engine accepted is told by its port: such a socket need not carry the mark", () => {
  const out = line("10.0.0.1:40000", "10.96.0.1:80") + line("127.0.0.1:15001", "10.0.0.1:40000");
  const inward = line("10.0.0.1:15006", "10.0.1.1:40000") + line("10.0.0.1:15008", "10.0.1.1:40001");
  assert.equal(unmeshed(out + inward), 0);
});

test("a captured inbound connection with the client's address spoofed does not count", () => {
  const peer = line("10.0.0.1:15008", "10.0.1.1:40000", ENGINE);
  const dial = line("10.0.1.1:33333", "10.0.0.1:80", ENGINE);
  const app = line("[::ffff:10.0.0.1]:80", "[::ffff:10.0.1.1]:33333");
  assert.equal(unmeshed(peer + dial + app), 0);
});

test("a pod's connections to itself do not count", () => {
  assert.equal(unmeshed(line("127.0.0.1:5432", "127.0.0.1:40000") + line("127.0.0.1:40000", "127.0.0.1:5432")), 0);
});

test("another mark than the engine's is an ordinary socket", () => {
  assert.equal(unmeshed(line("10.0.0.1:40000", "10.0.0.2:80", "fwmark:0x111")), 1);
});

test("an empty listing is no connection", () => {
  assert.equal(unmeshed("\n"), 0);
});
