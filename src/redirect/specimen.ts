// A network namespace for tests, which lives as long as they do.
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readlinkSync } from "node:fs";
import { after } from "node:test";
import { run } from "./command.ts";

const DEADLINE_MILLISECONDS = 5000;

/** Why this machine cannot run such tests, false when it can. */
export const skip = ((): string | false => {
  const tried = spawnSync("unshare", ["-n", "--", "nft", "list", "ruleset"], { encoding: "utf8" });
  return tried.status === 0 ? false : `network namespaces with nftables are not permitted here: ${tried.stderr || tried.error?.message}`;
})();

/** Children that the tests of this process started: ended when they are over. */
export const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill("SIGKILL");
});

/** The path of a new one, whose lo is up. */
export async function namespace(): Promise<string> {
  const child = spawn("unshare", ["-n", "--", "cat"], { stdio: ["pipe", "ignore", "inherit"] });
  children.push(child);
  const path = `/proc/${child.pid}/ns/net`;
  for (const deadline = Date.now() + DEADLINE_MILLISECONDS; readlinkSync(path) === readlinkSync("/proc/self/ns/net"); ) {
    assert.ok(Date.now() < deadline, "no network namespace came up");
    await new Promise(setImmediate);
  }
  await run(path, ["ip", "link", "set", "lo", "up"]);
  return path;
}
