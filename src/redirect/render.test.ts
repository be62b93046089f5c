import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { annotations } from "#contract/tables.ts";
import { captureSpec } from "#mesh/capture.ts";
import type { Pod } from "#mesh/objects.ts";
import { meta, podOf } from "#mesh/specimen.ts";
import { plan } from "./plan.ts";
import { renderHolder, renderNft, renderRemoval, renderRouting } from "./render.ts";

const pod = (annotations: Record<string, string>, probePorts: readonly number[] = []): Pod =>
  podOf(meta("shop", "p", { annotations }), { podIPs: [], probePorts });

test("the whole table of a pod reads as tested", () => {
  const { spec, faults } = captureSpec(
    undefined,
    pod(
      {
        [annotations.excludeOutboundPorts]: "9999",
        [annotations.excludeOutboundCidrs]: "10.99.0.0/16, fd99::/16,10.99.1.0/24",
        [annotations.excludeInboundPorts]: "9998",
      },
      [8080],
    ),
  );
  assert.deepEqual(faults, []);
  assert.equal(
    renderNft(plan(spec)),
    `table inet trackbed {}
delete table inet trackbed
table inet trackbed {
	set skip_out_ports { type inet_service; flags interval; elements = { 9999 } }
	set skip_out_v4 { type ipv4_addr; flags interval; elements = { 10.99.0.0/16 } }
	set skip_out_v6 { type ipv6_addr; flags interval; elements = { fd99::/16 } }
	set skip_in_ports { type inet_service; flags interval; elements = { 9998 } }
	set skip_in_v4 { type ipv4_addr; flags interval; }
	set skip_in_v6 { type ipv6_addr; flags interval; }
	set probe_ports { type inet_service; elements = { 8080 } }
	set probe_v4 { type ipv4_addr; elements = { 169.254.7.127 } }
	set probe_v6 { type ipv6_addr; elements = { fd16:9254:7127:1337:ffff:ffff:ffff:ffff } }
	chain dns_reply {
		type filter hook output priority -300; policy accept;
		meta mark & 0xfff == 0x539 udp sport 15053 udp sport set 53
	}
	chain pre_mark {
		type filter hook prerouting priority -150; policy accept;
		meta mark & 0xfff == 0x539 ct mark set 0x111 accept
		iifname "lo" meta mark & 0xfff == 0x111 meta nfproto ipv4 udp dport 53 tproxy ip to :15053 accept
		iifname "lo" meta mark & 0xfff == 0x111 meta nfproto ipv6 udp dport 53 tproxy ip6 to :15053 accept
	}
	chain dns_mark {
		udp dport @skip_out_ports return
		ip daddr @skip_out_v4 return
		ip6 daddr @skip_out_v6 return
		meta mark set 0x111
	}
	chain out_mark {
		type route hook output priority -150; policy accept;
		ct mark & 0xfff == 0x111 meta mark set 0x111 accept
		meta mark & 0xfff == 0x539 meta l4proto tcp oifname "lo" ct mark set 0x111 meta mark set 0x111 accept
		oifname "lo" accept
		meta mark & 0xfff == 0x539 accept
		udp dport 53 jump dns_mark
	}
	chain pre_nat {
		type nat hook prerouting priority -100; policy accept;
		tcp flags & (fin|syn|rst|ack) != syn accept
		meta l4proto != tcp accept
		meta mark & 0xfff == 0x539 accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		tcp dport 15008 accept
		ip saddr @probe_v4 tcp dport @probe_ports accept
		ip6 saddr @probe_v6 tcp dport @probe_ports accept
		tcp dport @skip_in_ports accept
		ip saddr @skip_in_v4 accept
		ip6 saddr @skip_in_v6 accept
		meta l4proto tcp redirect to :15006
	}
	chain out_nat {
		type nat hook output priority -100; policy accept;
		tcp flags & (fin|syn|rst|ack) != syn accept
		meta l4proto != tcp accept
		meta mark & 0xfff == { 0x111, 0x539 } accept
		oifname "lo" accept
		ip daddr 169.254.7.126 tcp dport 15021 redirect to :15001
		ip6 daddr fd16:9254:7127:1337:ffff:ffff:ffff:fffe tcp dport 15021 redirect to :15001
		ip daddr @probe_v4 accept
		ip6 daddr @probe_v6 accept
		ip daddr @skip_out_v4 accept
		ip6 daddr @skip_out_v6 accept
		tcp dport @skip_out_ports accept
		tcp dport 53 redirect to :15053
		meta l4proto tcp redirect to :15001
	}
}
`,
  );
});

test("a pod captured outbound only has no inbound chain, one without DNS capture no rule for port 53", () => {
  const text = renderNft(
    plan(captureSpec(undefined, pod({ [annotations.capture]: "outbound", [annotations.dnsCapture]: "disabled" })).spec),
  );
  assert.doesNotMatch(text, /pre_nat|skip_in|probe_ports|15006|15053|dport 53\b|tproxy/);
  assert.match(text, /redirect to :15001/);
});

test("removal and holder begin with the table's replacement in the same transaction", () => {
  assert.equal(renderRemoval(), "table inet trackbed {}\ndelete table inet trackbed\n");
  assert.ok(renderHolder().startsWith(renderRemoval()));
  assert.match(renderHolder(), /type nat hook output priority -100/);
  assert.match(renderHolder(), /ct mark & 0xfff == 0x111 meta mark set 0x111/);
});

test("routing adds what is missing, takes away what is too much, and says nothing when all is right", () => {
  const lo = "fwmark 0x539/0xfff oif lo pref 32764 lookup 100";
  assert.equal(renderRouting(4, true, { rules: 1, loRules: 0, routes: 1 }), "");
  assert.equal(renderRouting(6, true, { rules: 1, loRules: 1, routes: 1 }), "");
  assert.equal(
    renderRouting(6, true, { rules: 0, loRules: 0, routes: 0 }),
    `route add local ::/0 dev lo table 100\nrule add fwmark 0x111/0xfff pref 32764 lookup 100\nrule add ${lo}\n`,
  );
  assert.equal(renderRouting(4, true, { rules: 2, loRules: 0, routes: 1 }), "rule del fwmark 0x111/0xfff pref 32764 lookup 100\n");
  assert.equal(renderRouting(6, true, { rules: 1, loRules: 3, routes: 1 }), `rule del ${lo}\nrule del ${lo}\n`);
  assert.equal(
    renderRouting(4, false, { rules: 1, loRules: 0, routes: 1 }),
    "rule del fwmark 0x111/0xfff pref 32764 lookup 100\nroute del local 0.0.0.0/0 dev lo table 100\n",
  );
  assert.equal(
    renderRouting(6, false, { rules: 1, loRules: 1, routes: 1 }),
    `rule del ${lo}\nrule del fwmark 0x111/0xfff pref 32764 lookup 100\nroute del local ::/0 dev lo table 100\n`,
  );
});

test("no text of an annotation reaches the rules: what is not a list of ports or blocks is refused with its reason", () => {
  const clean = renderNft(plan(captureSpec(undefined, pod({})).spec));
  const hostile = fc.oneof(
    fc.string(),
    fc.constantFrom(
      "80 } } ; flush ruleset",
      "80\n}\ndelete table inet trackbed",
      "10.0.0.0/8, 0x50",
      "$(reboot)",
      "80,,81",
      "080",
      "-1",
      "+80",
      "1e3",
      "10.0.0.0/08",
      "0.0.0.0/0 }",
      "::1%lo",
      "١",
    ),
    fc.array(fc.constantFrom("80", "10.0.0.0/8", "fd00::/8", "}", ";", "\n", " ", "x"), { maxLength: 5 }).map((parts) => parts.join(",")),
  );
  const names = [
    annotations.excludeOutboundPorts,
    annotations.excludeOutboundCidrs,
    annotations.excludeInboundPorts,
    annotations.excludeInboundCidrs,
  ] as const;
  fc.assert(
    fc.property(hostile, fc.constantFrom(...names), (value, name) => {
      const { spec, faults } = captureSpec(undefined, pod({ [name]: value }));
      const text = renderNft(plan(spec));
      // Whatever came in, the text differs from the clean one by elements of sets alone, and those are numbers and addresses.
      const stripped = text.replaceAll(/ elements = \{ ([0-9a-f.:/, ]+) \}/g, "");
      assert.equal(stripped, clean.replaceAll(/ elements = \{ ([0-9a-f.:/, ]+) \}/g, ""));
      if (faults.length > 0) assert.equal(text, clean);
    }),
    { numRuns: 2000 },
  );
});
