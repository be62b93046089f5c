// The way out: `trackbed rescue` takes what is ours out of a network namespace and nothing else.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { join } from "node:path";
import { before, test } from "node:test";
import { enterSandbox } from "../src/lab/sandbox.ts";

const MAIN = join(import.meta.dirname, "../src/cli/main.ts");
const NETNS = "/run/netns/stuck";

const inside = (...command: string[]): string => execFileSync("nsenter", [`--net=${NETNS}`, "--", ...command], { encoding: "utf8" });
const rescue = (...args: string[]) => spawnSync(process.execPath, [MAIN, "rescue", ...args], { encoding: "utf8" });

before(async () => {
  await enterSandbox();
  execFileSync("ip", ["netns", "add", "stuck"]);
  inside("ip", "link", "set", "lo", "up");
  inside(
    "nft",
    "table inet trackbed { chain c { type nat hook output priority -100; tcp dport 80 redirect to :15001; }; }; table inet operator { chain c { tcp dport 22 accept; }; }",
  );
  for (const [family, everything] of [
    ["-4", "0.0.0.0/0"],
    ["-6", "::/0"],
  ] as const) {
    inside("ip", family, "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100");
    if (family === "-6") inside("ip", family, "rule", "add", "fwmark", "0x539/0xfff", "oif", "lo", "pref", "32764", "lookup", "100");
    inside("ip", family, "rule", "add", "fwmark", "0x7", "pref", "100", "lookup", "7");
    inside("ip", family, "route", "add", "local", everything, "dev", "lo", "table", "100");
    inside("ip", family, "route", "add", "local", everything, "dev", "lo", "table", "7");
  }
});

/** By any kind of iptables, in both families, beside a rule of somebody else. */
const KINDS = ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"].filter(
  (program) => spawnSync("unshare", ["-n", "--", `${program}-save`]).status === 0,
);

test("what an iptables back end left is found and goes, and what others made stays", {
  skip: KINDS.length === 0 && "no iptables is here",
}, () => {
  execFileSync("ip", ["netns", "add", "legacy"]);
  const legacy = (...command: string[]): string =>
    execFileSync("nsenter", ["--net=/run/netns/legacy", "--", ...command], { encoding: "utf8" });
  for (const program of KINDS) {
    legacy(program, "-t", "nat", "-N", "TRACKBED_OUT_NAT");
    legacy(program, "-t", "nat", "-A", "TRACKBED_OUT_NAT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001");
    legacy(program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "22", "-j", "RETURN");
    legacy(program, "-t", "nat", "-A", "OUTPUT", "-j", "TRACKBED_OUT_NAT");
  }
  assert.match(rescue("--netns", "/run/netns/legacy").stdout, /chains of iptables-legacy, chains of iptables-nft +found/);
  const { status, stdout } = rescue("--yes", "--netns", "/run/netns/legacy");
  assert.equal(status, 0, stdout);
  for (const program of KINDS) {
    const left = legacy(`${program}-save`);
    assert.doesNotMatch(left, /TRACKBED/, program);
    assert.match(left, /-A OUTPUT -p tcp -m tcp --dport 22 -j RETURN/, program);
  }
  execFileSync("ip", ["netns", "del", "legacy"]);
});

test("without --yes it only tells what is there and exits 1", () => {
  const { status, stdout } = rescue("--netns", NETNS);
  assert.equal(status, 1);
  assert.match(stdout, /table inet trackbed, IPv4 rule, IPv4 route, IPv6 rule, IPv6 rule of the engine, IPv6 route +found/);
  assert.match(inside("nft", "list", "tables"), /table inet trackbed\n/);
});

test("with --yes every rule and route of ours goes, in every namespace, and what others made stays", () => {
  const { status, stdout } = rescue("--yes", "-o", "json");
  assert.equal(status, 0, stdout);
  const { findings } = JSON.parse(stdout) as { findings: { netns: string; removed: boolean }[] };
  assert.deepEqual(
    findings.map(({ netns, removed }) => [netns, removed]),
    [[NETNS, true]],
  );
  assert.equal(inside("nft", "list", "tables").trim(), "table inet operator");
  for (const family of ["-4", "-6"]) {
    assert.doesNotMatch(inside("ip", family, "rule"), /0x111|0x539/);
    assert.match(inside("ip", family, "rule"), /fwmark 0x7 lookup 7/);
    assert.match(inside("ip", family, "route", "show", "table", "all"), /table 7/);
    assert.doesNotMatch(inside("ip", family, "route", "show", "table", "all"), /table 100/);
  }
});

test("a namespace that does not exist is named and nothing is touched", () => {
  const { status, stderr } = rescue("--yes", "--netns", "/run/netns/nobody");
  assert.equal(status, 1);
  assert.match(stderr, /no such network namespace: \/run\/netns\/nobody/);
});
