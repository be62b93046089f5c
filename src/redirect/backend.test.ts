import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { test } from "node:test";
import fc from "fast-check";
import { parseCidr } from "#mesh/address.ts";
import type { CaptureSpec } from "#mesh/capture.ts";
import type { Backend, BackendName } from "./backend.ts";
import { BACKENDS, backendOf, chooseBackend } from "./choose.ts";
import { run } from "./command.ts";
import { foreignLegacy } from "./foreign.ts";
import { expected, tableForm } from "./form.ts";
import { tablesOf } from "./iptables/rules.ts";
import { renderRestore } from "./iptables/saved.ts";
import { plan } from "./plan.ts";
import { renderNft } from "./render.ts";
import { inCharge } from "./several.ts";
import { children, namespace, skip } from "./specimen.ts";

const DEADLINE_MILLISECONDS = 5000;

const none: CaptureSpec = {
  inbound: true,
  dns: true,
  excludeOutbound: { ports: [], cidrs: [] },
  excludeInbound: { ports: [], cidrs: [] },
  probePorts: [],
};
const cidrs = (...texts: string[]) => texts.map(parseCidr).filter((cidr) => cidr !== null);
const full: CaptureSpec = {
  ...none,
  excludeOutbound: { ports: [9999, 80, 81], cidrs: cidrs("10.99.0.0/16", "fd99::/16", "10.99.1.0/24", "192.0.2.1") },
  excludeInbound: { ports: [9998], cidrs: cidrs("::/0", "0.0.0.0/0") },
  probePorts: [8080],
};
const usable = BACKENDS.filter(
  (name) => spawnSync("unshare", ["-n", "--", `${name}${name === "nft" ? "" : "-save"}`, "--version"]).status === 0,
);
const backends = usable.map((name) => backendOf(name, usable.includes("nft")));

/** A claim about every back end. */
function everyBackend(claim: string, prove: (backend: Backend, netns: string) => Promise<void>): void {
  for (const name of BACKENDS) {
    const backend = backends.find((one) => one.name === name);
    test(`${name}: ${claim}`, { skip: skip || (backend === undefined ? `${name} is not installed here` : false) }, async () => {
      if (backend !== undefined) await prove(backend, await namespace());
    });
  }
}

const stands = { rules: "equal", routing: true, differences: [] };

test("the plan is recognised by an nft that has no names of protocols, as in a small image", { skip }, async () => {
  const netns = await namespace();
  await backendOf("nft", true).apply(netns, plan(full));
  const list = "mount --bind /dev/null /etc/protocols && exec nft -j list ruleset";
  const nameless = await run(netns, ["unshare", "-m", "sh", "-c", list]);
  assert.match(nameless, /"key": "l4proto"}}, "right": 6}/, "this nft names them all the same: the test shows nothing");
  assert.deepEqual(tableForm(JSON.parse(nameless)), expected(plan(full)));
});

everyBackend("what is read back equals the plan, for any plan, and applying it again changes nothing", async (backend, netns) => {
  const byte = fc.constantFrom(0, 1, 10, 127, 128, 255);
  const cidr = fc
    .oneof(
      fc.tuple(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.nat(32)),
      fc.tuple(
        fc.array(byte, { minLength: 16, maxLength: 16 }).map((bytes) => Uint8Array.from(bytes)),
        fc.nat(128),
      ),
    )
    .map(([bytes, length]) =>
      parseCidr(
        `${
          bytes.length === 4
            ? bytes.join(".")
            : Buffer.from(bytes)
                .toString("hex")
                .replace(/(.{4})(?=.)/g, "$1:")
        }/${length}`,
      ),
    )
    .filter((one) => one !== null);
  const exclusion = fc.record({
    ports: fc.array(fc.integer({ min: 1, max: 65535 }), { maxLength: 8 }),
    cidrs: fc.array(cidr, { maxLength: 8 }),
  });
  const spec = fc.record({
    inbound: fc.boolean(),
    dns: fc.boolean(),
    excludeOutbound: exclusion,
    excludeInbound: exclusion,
    probePorts: fc.array(fc.integer({ min: 1, max: 65535 }), { maxLength: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(spec, async (random) => {
      const wanted = plan(random);
      for (let i = 0; i < 2; i++) {
        await backend.apply(netns, wanted);
        assert.deepEqual(backend.compare(await backend.read(netns), wanted), stands);
      }
    }),
    { numRuns: 12, examples: [[none], [full]] },
  );
});

everyBackend("every kind of edit is seen, and applying the plan again mends it", async (backend, netns) => {
  const wanted = plan(full);
  const edits: [string, string[]][] = [
    ...editsOf(backend.name),
    ["an IPv4 rule goes", ["ip", "rule", "del", "pref", "32764"]],
    ["an IPv6 rule goes", ["ip", "-6", "rule", "del", "fwmark", "0x111/0xfff", "pref", "32764"]],
    ["the engine's IPv6 rule goes", ["ip", "-6", "rule", "del", "fwmark", "0x539/0xfff", "oif", "lo", "pref", "32764"]],
    ["an IPv4 route goes", ["ip", "route", "flush", "table", "100"]],
    ["an IPv6 route goes", ["ip", "-6", "route", "flush", "table", "100"]],
    ["a rule is doubled", ["ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100", "protocol", "static"]],
  ];
  for (const [what, command] of edits) {
    await backend.apply(netns, wanted);
    await run(netns, command);
    const seen = backend.compare(await backend.read(netns), wanted);
    assert.ok(seen.rules !== "equal" || !seen.routing, what);
    assert.ok(seen.differences.length > 0, what);
    await backend.apply(netns, wanted);
    assert.deepEqual(backend.compare(await backend.read(netns), wanted), stands, what);
  }
});

/** By nft, or by both families' iptables: IPv6 alone is as much of a hole. */
function editsOf(name: BackendName): [string, string[]][] {
  if (name === "nft") return NFT_EDITS;
  const [v4, v6] = [name, name.replace("ip", "ip6")];
  return [
    ["a rule is added", [v4, "-t", "nat", "-A", "TRACKBED_OUT_NAT", "-j", "RETURN"]],
    ["a rule is put first", [v6, "-t", "nat", "-I", "TRACKBED_OUT_NAT", "-j", "RETURN"]],
    ["a rule is put before ours", [v4, "-t", "nat", "-I", "OUTPUT", "-j", "ACCEPT"]],
    ["a rule goes", [v6, "-t", "nat", "-D", "TRACKBED_PRE_NAT", "1"]],
    ["a rule is changed", [v4, "-t", "nat", "-R", "TRACKBED_PRE_NAT", "1", "-j", "ACCEPT"]],
    ["a chain is flushed", [v6, "-t", "mangle", "-F", "TRACKBED_OUT_MARK"]],
    ["the way into a chain goes", [v4, "-t", "nat", "-D", "OUTPUT", "-j", "TRACKBED_OUT_NAT"]],
    ["the way into a chain is doubled", [v4, "-t", "mangle", "-A", "PREROUTING", "-j", "TRACKBED_PRE_MARK"]],
    ["another chain leads to ours", [v4, "-t", "mangle", "-A", "INPUT", "-s", "10.9.9.9", "-j", "TRACKBED_REPLY_MARK"]],
    ["a table is flushed", [v4, "-t", "nat", "-F"]],
    ["the raw table is flushed", [v6, "-t", "raw", "-F"]],
    ["a chain is added", [v4, "-t", "nat", "-N", "TRACKBED_MORE"]],
  ];
}

const NFT_EDITS: [string, string[]][] = [
  ["a rule is added", ["nft", "add", "rule", "inet", "trackbed", "out_nat", "counter", "accept"]],
  ["a rule is put first", ["nft", "insert", "rule", "inet", "trackbed", "out_nat", "accept"]],
  ["a chain is flushed", ["nft", "flush", "chain", "inet", "trackbed", "out_mark"]],
  ["the table is flushed", ["nft", "flush", "table", "inet", "trackbed"]],
  ["the table is deleted", ["nft", "delete", "table", "inet", "trackbed"]],
  ["everything is flushed", ["nft", "flush", "ruleset"]],
  ["a set gains an element", ["nft", "add", "element", "inet", "trackbed", "skip_out_v4", "{ 172.16.0.0/12 }"]],
  ["a set loses an element", ["nft", "delete", "element", "inet", "trackbed", "skip_out_ports", "{ 9999 }"]],
  ["a set is added", ["nft", "add", "set", "inet", "trackbed", "more", "{ type ipv4_addr; }"]],
  ["a chain is added", ["nft", "add", "chain", "inet", "trackbed", "more"]],
  ["the table is put to sleep", ["nft", "add", "table", "inet", "trackbed", "{ flags dormant; }"]],
  [
    "a rule goes",
    [
      "sh",
      "-c",
      "nft delete rule inet trackbed pre_nat handle $(nft -a list chain inet trackbed pre_nat | sed -n 's/.*accept # handle //p' | head -n 1)",
    ],
  ],
];

everyBackend("a replacement that fails half way leaves the whole old table in force and says why", async (backend, netns) => {
  await backend.apply(netns, plan(full));
  const [command, script] = failing(backend.name);
  await assert.rejects(run(netns, command, script), /-restore|nft -f - in .*no_such_chain/s);
  assert.equal(backend.compare(await backend.read(netns), plan(full)).rules, "equal");
});

/** The rules of another plan, and a last one that the kernel refuses. */
function failing(name: BackendName): [string[], string] {
  if (name === "nft") return [["nft", "-f", "-"], `${renderNft(plan(none))}add rule inet trackbed no_such_chain accept\n`];
  const nat = renderRestore({ ...tablesOf(null, 4), mangle: [], raw: [] }, new Map());
  return [[`${name}-restore`, "--noflush"], nat.replace("COMMIT", "-A TRACKBED_OUT_NAT -p tcp -j TPROXY --on-port 15001\nCOMMIT")];
}

/** A connection to an address that only the capture leads anywhere; what it says comes back. */
async function capturedConnection(backend: Backend, netns: string): Promise<{ echo(text: string): Promise<void>; end(): void }> {
  await run(
    netns,
    ["ip", "-batch", "-"],
    "link add d0 type veth peer name d1\nlink set d0 up\nlink set d1 up\naddr add 192.0.2.2/24 dev d0\nroute add default dev d0\n",
  );
  await backend.apply(netns, plan(none));
  const script = `const net=require("net");net.createServer(s=>s.pipe(s)).listen(15001,"127.0.0.1",()=>{
    const c=net.connect(80,"198.51.100.1",()=>console.log("open"));c.setEncoding("utf8").on("data",d=>console.log(d)).on("error",e=>console.log(e.message)).on("close",()=>console.log("closed"));
    process.stdin.setEncoding("utf8").on("data",d=>c.write(d.trim()));});`;
  const child = spawn("nsenter", [`--net=${netns}`, "--", process.execPath, "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async (): Promise<string> => {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error("the connection says nothing")), DEADLINE_MILLISECONDS);
    const { value } = await Promise.race([lines.next(), promise]);
    clearTimeout(timer);
    return String(value);
  };
  const echo = async (text: string): Promise<void> => {
    child.stdin.write(`${text}\n`);
    assert.equal(await line(), text);
  };
  assert.equal(await line(), "open");
  return { echo, end: () => void child.kill("SIGKILL") };
}

everyBackend("a captured connection lives through replacements, the holder, and capture again", async (backend, netns) => {
  const { echo, end } = await capturedConnection(backend, netns);
  await echo("captured");
  for (const spec of [full, none, full]) {
    await backend.apply(netns, plan(spec));
    await echo("replaced");
  }
  await backend.holder(netns);
  assert.deepEqual(backend.compare(await backend.read(netns), plan(full)), { rules: "holder", routing: true, differences: [] });
  await echo("held");
  await backend.apply(netns, plan(none));
  await echo("captured again");
  end();
});

test("whoever is in charge takes the rules of the others away, and what they captured lives on", { skip }, async () => {
  for (const before of backends) {
    for (const after of backends.filter((one) => one !== before)) {
      const netns = await namespace();
      const { echo, end } = await capturedConnection(before, netns);
      const charged = inCharge(after, backends);
      assert.equal(charged.compare(await charged.read(netns), plan(full)).rules, "different", `${after.name} after ${before.name}`);
      await charged.apply(netns, plan(full));
      assert.deepEqual(charged.compare(await charged.read(netns), plan(full)), stands, `${after.name} after ${before.name}`);
      assert.equal((await before.read(netns)).table, null, `${after.name} after ${before.name}`);
      await echo("taken over");
      end();
      await before.apply(netns, plan(none));
      await charged.remove(netns);
      for (const backend of backends) assert.equal((await backend.read(netns)).table, null);
      assert.deepEqual((await before.read(netns)).leftovers, []);
    }
  }
  const lonely = await namespace();
  const [first, second] = backends;
  if (first === undefined || second === undefined) return;
  await second.apply(lonely, plan(none));
  await assert.rejects(inCharge(first, [first]).apply(lonely, plan(none)), new RegExp(`rules of ours by ${second.name}.*install it`));
});

test("a node's back end is the first that works or the one that is asked for, and why another was not taken is said", {
  skip,
}, async () => {
  const { backend, refused } = await chooseBackend("auto");
  assert.equal(backend.name, "nft", JSON.stringify(refused));
  for (const name of usable) assert.equal((await chooseBackend(name)).backend.name, name);
});

everyBackend(
  "another mesh's chains are told, by whichever iptables they were made, and rules of others are left alone",
  async (backend, netns) => {
    for (const variant of usable.filter((name) => name !== "nft")) {
      const { foreign } = await backend.read(netns);
      assert.deepEqual(foreign, [], "nothing yet");
      await run(netns, [variant, "-t", "nat", "-N", "ISTIO_OUTPUT"]);
      await run(netns, [variant, "-t", "nat", "-A", "ISTIO_OUTPUT", "-p", "tcp", "-j", "RETURN"]);
      await backend.apply(netns, plan(none));
      assert.ok(
        (await backend.read(netns)).foreign.some(({ kind, reason }) => kind === "mesh" && /Istio/.test(reason)),
        `${backend.name} does not see ${variant}`,
      );
      await backend.remove(netns);
      assert.match(await run(netns, [`${variant}-save`, "-t", "nat"]), /-A ISTIO_OUTPUT -p tcp -j RETURN/);
      await run(netns, [variant, "-t", "nat", "-F", "ISTIO_OUTPUT"]);
      await run(netns, [variant, "-t", "nat", "-X", "ISTIO_OUTPUT"]);
    }
  },
);

everyBackend(
  "what was read just before is believed, and what does not hold any more is refused by the kernel or read back",
  async (backend, netns) => {
    const charged = inCharge(backend, backends);
    const empty = await charged.read(netns);
    await charged.apply(netns, plan(full), empty);
    const stood = await charged.read(netns);
    assert.deepEqual(charged.compare(stood, plan(full)), stands);
    await assert.rejects(charged.apply(netns, plan(full), empty), /File exists/, "routing that was missing is there by now");
    await charged.remove(netns);
    await charged.apply(netns, plan(full), stood);
    assert.equal(charged.compare(await charged.read(netns), plan(full)).routing, false, "routing that was there is gone by now");
    await charged.apply(netns, plan(full));
    assert.deepEqual(charged.compare(await charged.read(netns), plan(full)), stands);
  },
);

everyBackend("removal leaves no table, no rule and no route of ours, and nothing of others goes", async (backend, netns) => {
  const rules = async (): Promise<string[]> => [await run(netns, ["ip", "rule"]), await run(netns, ["ip", "-6", "rule"])];
  const before = await rules();
  await run(netns, ["nft", "add", "table", "inet", "other"]);
  await backend.apply(netns, plan(full));
  await backend.holder(netns);
  await backend.remove(netns);
  await backend.remove(netns);
  const { table, routing, leftovers } = await backend.read(netns);
  assert.deepEqual(leftovers, []);
  assert.deepEqual([table, routing], [null, { rule4: 0, rule6: 0, lo6: 0, route4: 0, route6: 0, strays: [] }]);
  assert.equal(backend.compare(await backend.read(netns), plan(full)).rules, "none");
  assert.deepEqual(await rules(), before);
  assert.match(await run(netns, ["nft", "list", "tables"]), /inet other/);
});

everyBackend("a namespace without IPv6 is captured without it, and needs it as soon as IPv6 is switched on", async (backend, netns) => {
  const ipv6 = (off: string) => run(netns, ["sh", "-c", `for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo ${off} > $f; done`]);
  await ipv6("1");
  await backend.apply(netns, plan(full));
  const reading = await backend.read(netns);
  assert.equal(reading.ipv6, false);
  assert.deepEqual(backend.compare(reading, plan(full)), stands);
  await ipv6("0");
  assert.equal(backend.compare(await backend.read(netns), plan(full)).routing, false);
  await backend.apply(netns, plan(full));
  assert.deepEqual(backend.compare(await backend.read(netns), plan(full)), stands);
});

test("another mesh's rules, earlier nat rules and mark changes are told apart, and empty chains are no trouble", { skip }, async () => {
  const backend = backendOf("nft", true);
  const cases: [string, [string, RegExp][]][] = [
    [
      "table ip nat { chain ISTIO_OUTPUT {\n}\n chain OUTPUT { type nat hook output priority -100; jump ISTIO_OUTPUT; } }",
      [
        ["mesh", /ISTIO_OUTPUT/],
        ["nat", /chain OUTPUT/],
      ],
    ],
    ["table inet istio-ambient-nat { }", [["mesh", /istio-ambient-nat/]]],
    ["table ip nat { chain PROXY_INIT_REDIRECT {\n}\n }", [["mesh", /PROXY_INIT/]]],
    ["table ip mangle { chain KUMA_MESH_INBOUND {\n}\n }", [["mesh", /KUMA/]]],
    ["table ip x { chain p { type nat hook prerouting priority -110; tcp dport 80 redirect to :81; } }", [["nat", /table ip x, chain p/]]],
    ["table ip x { chain p { type filter hook output priority -160; meta mark set 0x1; } }", [["mark", /table ip x, chain p/]]],
    ["table ip x { chain p { type nat hook output priority 0; tcp dport 80 redirect to :81; } }", []],
    ["table ip nat { chain OUTPUT { type nat hook output priority -100; } }", []],
    ["table ip filter { chain OUTPUT { type filter hook output priority -160; tcp dport 80 drop; } }", []],
  ];
  for (const [rules, expected] of cases) {
    const netns = await namespace();
    await backend.apply(netns, plan(none));
    await run(netns, ["nft", "-f", "-"], rules.replaceAll("} }", "}\n}"));
    const { foreign } = await backend.read(netns);
    assert.deepEqual(
      foreign.map(({ kind }) => kind),
      expected.map(([kind]) => kind),
      rules,
    );
    for (const [i, [, where]] of expected.entries()) assert.match(foreign[i]?.where ?? "", where);
  }
});

test("legacy tables are reported, by mesh when they can be read", () => {
  assert.deepEqual(foreignLegacy([], null), []);
  assert.deepEqual(foreignLegacy(["filter"], null), []);
  assert.equal(foreignLegacy(["nat"], null)[0]?.kind, "legacy");
  assert.deepEqual(foreignLegacy(["nat"], "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"), []);
  assert.equal(foreignLegacy(["nat"], "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT\n")[0]?.kind, "legacy");
  assert.equal(foreignLegacy(["nat"], "*nat\n:ISTIO_REDIRECT - [0:0]\nCOMMIT\n")[0]?.kind, "mesh");
});

everyBackend("a namespace that is gone is an error that names it", async (backend) => {
  await assert.rejects(
    backend.read("/run/netns/no-such-namespace"),
    (error: Error & { code?: string }) => error.code === "E_CAPTURE_RULES_FAILED" && /no-such-namespace/.test(error.message),
  );
});

test("a program that is missing and one that does not answer are errors that name them", { skip }, async () => {
  const netns = await namespace();
  await assert.rejects(run(netns, ["no-such-program"]), /no-such-program/);
  await assert.rejects(run(netns, ["sleep", "30"]), /no answer within 2000 ms/);
});
