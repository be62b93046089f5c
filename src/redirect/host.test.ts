// Claims about the host's rules for kubelet probes, tried with a host and a pod as two network namespaces.
import assert from "node:assert/strict";
import { execFile, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { addresses } from "#contract/tables.ts";
import { run } from "./command.ts";
import { type HostRules, hostRules, renderHost } from "./host.ts";
import { hostTables, iptablesHostRules } from "./iptables/host.ts";
import { children, namespace, skip } from "./specimen.ts";

/** A Node is started for each question, on a machine that may be very busy. */
const ASK_MILLISECONDS = 20_000;
const execute = promisify(execFile);
const NOBODY = 65534;

/** In a user namespace of one user there is nobody else to be. */
const alone = ((): string | false => {
  const ranges = readFileSync("/proc/self/uid_map", "utf8").trim().split("\n");
  const mapped = ranges.map((range) => range.trim().split(/\s+/).map(Number)).some(([first = 0, , count = 0]) => NOBODY - first < count);
  return mapped ? false : `user id ${NOBODY} is not mapped in this user namespace`;
})();
const hierarchy = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].find((path) => existsSync(join(path, "cgroup.controllers")));

const WAYS: readonly (readonly [program: string, rules: (netns: string) => HostRules])[] = [
  ["nft", hostRules],
  ["iptables-legacy", (netns) => iptablesHostRules("legacy", netns)],
  ["iptables-nft", (netns) => iptablesHostRules("nft", netns)],
];

/** A claim about the host's rules by every back end. */
function everyWay(
  claim: string,
  otherwise: string | false,
  prove: (rulesOf: (netns: string) => HostRules, t: TestContext) => Promise<void>,
): void {
  for (const [program, rulesOf] of WAYS) {
    const absent = spawnSync(program, ["--version"]).status === 0 ? false : `${program} is not installed here`;
    test(`${program}: ${claim}`, { skip: skip || otherwise || absent }, (t) => prove(rulesOf, t));
  }
}

const SERVER = `for (const port of [8080, 9090]) require("net").createServer((s) => s.on("error", () => {}).end(s.remoteAddress)).listen(port, "::", () => console.log(port));`;
const ASK = `const [address, port, uid, group] = process.argv.slice(1);
if (group !== "") require("fs").writeFileSync(group + "/cgroup.procs", String(process.pid));
if (uid !== "0") process.setuid(Number(uid));
require("net").connect(Number(port), address).on("data", (d) => process.stdout.write(d)).on("error", (e) => process.stdout.write(e.code));`;

/** A host at .1 with a pod at .2, in both families; the pod answers with the source it sees. */
async function pair() {
  const [host, pod] = [await namespace(), await namespace()];
  const pid = pod.split("/")[2] ?? "";
  await run(host, ["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", pid]);
  for (const [netns, device, last] of [
    [host, "veth0", 1],
    [pod, "eth0", 2],
  ] as const) {
    await run(netns, ["ip", "addr", "add", `10.77.9.${last}/24`, "dev", device]);
    await run(netns, ["ip", "addr", "add", `fd77:9::${last}/64`, "dev", device, "nodad"]);
    await run(netns, ["ip", "link", "set", device, "up"]);
  }
  await run(pod, ["ip", "-4", "route", "add", "default", "via", "10.77.9.1"]);
  await run(pod, ["ip", "-6", "route", "add", "default", "via", "fd77:9::1"]);
  const server = spawn("nsenter", [`--net=${pod}`, "--", process.execPath, "-e", SERVER], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(server);
  let said = "";
  for await (const chunk of server.stdout ?? []) {
    said += String(chunk);
    if (said.split("\n").length > 2) break;
  }
  const ask = async (address: string, port: number, more: { readonly uid?: number; readonly group?: string } = {}): Promise<string> => {
    const asking = [process.execPath, "-e", ASK, address, String(port), String(more.uid ?? 0), more.group ?? ""];
    const { stdout } = await execute("nsenter", [`--net=${host}`, "--", ...asking], { timeout: ASK_MILLISECONDS });
    return stdout.replace("::ffff:", "");
  };
  return { host, ask };
}

const probed = [
  { address: "10.77.9.2", port: 8080 },
  { address: "fd77:9::2", port: 8080 },
];

everyWay("connections to probe ports get the probe address where no cgroup can be matched, in both families", false, async (rulesOf) => {
  const { host, ask } = await pair();
  const rules = rulesOf(host);
  assert.equal(await rules.list(), null);
  const listing = await rules.apply({ cgroup: null }, probed);
  assert.equal(await rules.list(), listing, "the listing tells changes, so it must not change by itself");
  assert.equal(await ask("10.77.9.2", 8080), addresses.probeV4);
  assert.equal(await ask("fd77:9::2", 8080), addresses.probeV6);
  assert.equal(await ask("10.77.9.2", 9090), "10.77.9.1");
  assert.equal(await rules.list(), listing, "traffic is no change");
  await rules.apply({ cgroup: null }, [{ address: "10.77.9.2", port: 9090 }]);
  assert.equal(await ask("10.77.9.2", 8080), "10.77.9.1");
  assert.notEqual(await rules.list(), listing);
  await rules.remove();
  await rules.remove();
  assert.equal(await rules.list(), null);
  assert.equal(await ask("10.77.9.2", 9090), "10.77.9.1");
});

everyWay("where no cgroup can be matched, only root gets the probe address", alone, async (rulesOf) => {
  const { host, ask } = await pair();
  const rules = rulesOf(host);
  await rules.apply({ cgroup: null }, probed);
  assert.equal(await ask("10.77.9.2", 8080), addresses.probeV4);
  assert.equal(await ask("10.77.9.2", 8080, { uid: NOBODY }), "10.77.9.1");
  await rules.remove();
});

everyWay(
  "with the kubelet's cgroup only what it makes counts, by whatever path it is named",
  hierarchy === undefined ? "there is no cgroup v2 hierarchy" : false,
  async (rulesOf, t) => {
    const group = join(hierarchy ?? "", `trackbed-host-test-${process.pid}`);
    try {
      mkdirSync(group);
    } catch (error) {
      return t.skip(`no cgroup can be made here: ${String(error)}`);
    }
    const { host, ask } = await pair();
    const rules = rulesOf(host);
    const prober = { cgroup: { path: group, level: group.slice((hierarchy ?? "").length).split("/").length - 1 } };
    try {
      await rules.apply(prober, probed);
      assert.equal(await ask("10.77.9.2", 8080, { group }), addresses.probeV4);
      assert.equal(await ask("fd77:9::2", 8080, { group }), addresses.probeV6);
      assert.equal(await ask("10.77.9.2", 8080), "10.77.9.1", "root outside of the group is no kubelet");
      assert.equal(await ask("10.77.9.2", 9090, { group }), "10.77.9.1");
      // The same directory by another path: containers do not see the node's own.
      await rules.apply({ cgroup: { ...prober.cgroup, path: join("/proc/self/root", group) } }, probed);
      assert.equal(await ask("10.77.9.2", 8080, { group }), addresses.probeV4);
    } finally {
      await rules.remove();
      rmdirSync(group);
    }
  },
);

test("marks of others stay, and a path that is not a path is never written into a rule", () => {
  assert.match(renderHost({ cgroup: null }, probed), /meta mark set meta mark & 0xfffff000 \| 0x53a/);
  assert.throws(() => renderHost({ cgroup: { path: '/sys/fs/cgroup/a" accept', level: 1 } }, probed), /cannot be written in a rule/);
  assert.match(hostTables({ cgroup: null }, probed, 4).mangle[0]?.rules[0] ?? "", /--set-xmark 0x53a\/0xfff$/);
  for (const path of ["/sys/fs/cgroup/a -j ACCEPT", "/sys/fs/cgroup/a\nCOMMIT", "/sys/fs/cgroup/--help"])
    assert.throws(() => hostTables({ cgroup: { path, level: 1 } }, probed, 4), /cannot be written in a rule/);
});
