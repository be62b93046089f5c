import assert from "node:assert/strict";
import { isIP } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { annotations, kubernetes, labels } from "#contract/tables.ts";
import { cidrContains, formatAddress, formatCidr, parseAddress, parseCidr, spellAddress } from "./address.ts";
import { captureSpec, parsePort } from "./capture.ts";
import { enrolment, ISTIO_MODE } from "./enrolment.ts";
import type { Labels, Namespace, Pod } from "./objects.ts";
import { observation } from "./observe.ts";
import { selects } from "./selector.ts";
import { meta, podOf } from "./specimen.ts";

const namespace = (labels: Labels = {}, annotations: Labels = {}): Namespace => ({
  kind: "Namespace",
  metadata: meta("", "shop", { labels, annotations }),
});
const pod = (labels: Labels = {}, more: Partial<Pod> = {}, annotations: Labels = {}): Pod =>
  podOf(meta("shop", "x", { labels, annotations }), { podIPs: [], ...more });

test("an address keeps its bytes through text, and IPv6 text is the canonical one", () => {
  for (const [text, canonical] of [
    ["10.0.0.1", "10.0.0.1"],
    ["FD00:0:0:0:0:0:0:1", "fd00::1"],
    ["::", "::"],
    ["::ffff:10.0.0.1", "10.0.0.1"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["64:ff9b::1.2.3.4", "64:ff9b::102:304"],
  ] as const) {
    assert.equal(formatAddress(parseAddress(text) ?? new Uint8Array()), canonical);
    assert.equal(spellAddress(text), canonical);
  }
  for (const text of ["", "10.0.0", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "1::2::3", " 10.0.0.1", "10.0.0.1\n", "[::1]"])
    assert.deepEqual([parseAddress(text), spellAddress(text)], [null, ""], text);
  const isMapped = (bytes: Uint8Array): boolean => bytes.slice(0, 12).join() === "0,0,0,0,0,0,0,0,0,0,255,255";
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ minLength: 4, maxLength: 4 }),
        fc.uint8Array({ minLength: 16, maxLength: 16 }).filter((bytes) => !isMapped(bytes)),
      ),
      (bytes) => {
        const text = formatAddress(bytes);
        assert.equal(isIP(text), bytes.length === 4 ? 4 : 6);
        assert.deepEqual(parseAddress(text), bytes);
      },
    ),
  );
});

test("a block has no bits behind its length and contains exactly the blocks that begin with it", () => {
  for (const [text, canonical] of [
    ["10.1.2.3/9", "10.0.0.0/9"],
    ["1.2.3.4", "1.2.3.4/32"],
    ["fd00::1/64", "fd00::/64"],
    ["255.255.255.255/0", "0.0.0.0/0"],
  ] as const) {
    const cidr = parseCidr(text);
    assert.equal(cidr && formatCidr(cidr), canonical);
  }
  for (const text of ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8/8", "::/129", "::ffff:10.0.0.0/104", "/8"])
    assert.equal(parseCidr(text), null, text);
  const bits = (bytes: Uint8Array) => [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  const cidr = fc
    .tuple(fc.uint8Array({ minLength: 4, maxLength: 4, max: 3 }), fc.nat(32))
    .map(([bytes, length]) => parseCidr(`${bytes.join(".")}/${length}`))
    .filter((one) => one !== null);
  fc.assert(
    fc.property(cidr, cidr, (a, b) =>
      assert.equal(cidrContains(a, b), a.length <= b.length && bits(a.address).slice(0, a.length) === bits(b.address).slice(0, a.length)),
    ),
  );
});

test("a selector picks what carries every pair of it", () => {
  assert.ok(selects({}, { a: "b" }));
  assert.ok(selects({ a: "b" }, { a: "b", c: "d" }));
  assert.ok(!selects({ a: "b" }, { a: "c" }));
  assert.ok(!selects({ toString: "b" }, {}));
});

test("a waypoint's pod is never captured, whatever labels say; another Gateway's is as any pod", () => {
  const on = { [labels.mesh]: "enabled" };
  const enrolled = (className: string, adopt: "none" | "istio" = "none"): boolean => {
    const one = pod({ ...on, [kubernetes.gatewayNameLabel]: "g", [kubernetes.gatewayClassLabel]: className });
    return enrolment(namespace(on), one, { adopt }).enrolled;
  };
  assert.deepEqual(
    [enrolled("trackbed-waypoint"), enrolled("istio-waypoint"), enrolled("istio-waypoint", "istio"), enrolled("nginx")],
    [false, true, false, true],
  );
});

test("the namespace's label enrols unless the pod says otherwise, and what cannot be in the mesh says why", () => {
  const on = { [labels.mesh]: "enabled" };
  const off = { [labels.mesh]: "disabled" };
  const cases: [Namespace | undefined, Pod, boolean, string | null][] = [
    [namespace(on), pod(), true, null],
    [namespace(on), pod(off), false, null],
    [namespace(off), pod(on), true, null],
    [undefined, pod(on), true, null],
    [undefined, pod(), false, null],
    [namespace(), pod(), false, null],
    [namespace({ [labels.mesh]: "yes" }), pod(), false, "E_SOURCE_INVALID"],
    [namespace(on), pod({ [labels.mesh]: "Enabled" }), false, "E_SOURCE_INVALID"],
    [namespace(on), pod({}, { hostNetwork: true }), false, "E_CAPTURE_HOST_NETWORK"],
    [namespace(off), pod({}, { hostNetwork: true }), false, null],
    [namespace(on), pod({}, { phase: "Succeeded" }), false, null],
    [namespace(on), pod({}, { phase: "Failed" }), false, null],
    [namespace(on), pod({}, { phase: "Pending" }), true, null],
    [namespace(on), pod({}, {}, { "sidecar.istio.io/status": "{}" }), false, "E_CAPTURE_FOREIGN_MESH"],
  ];
  for (const [ns, one, enrolled, code] of cases) {
    const answer = enrolment(ns, one);
    assert.deepEqual([answer.enrolled, answer.code], [enrolled, code], answer.reason);
    assert.ok(answer.reason.length > 0);
  }
});

test("Istio's label counts only where it is adopted, and ours beats it on the same object", () => {
  const mode = (value: string) => ({ [ISTIO_MODE]: value });
  const on = { [labels.mesh]: "enabled" };
  const off = { [labels.mesh]: "disabled" };
  const cases: [Namespace | undefined, Pod, boolean][] = [
    [namespace(mode("ambient")), pod(), true],
    [namespace(mode("ambient")), pod(mode("none")), false],
    [namespace(mode("none")), pod(mode("ambient")), true],
    [namespace(mode("something-later")), pod(), false],
    [namespace({ ...mode("ambient"), ...off }), pod(), false],
    [namespace({ ...mode("none"), ...on }), pod(), true],
    [namespace(off), pod(mode("ambient")), true],
    [namespace(on), pod({ ...mode("none"), ...on }), true],
    [undefined, pod(mode("ambient")), true],
    [namespace(mode("ambient")), pod({}, {}, { "ambient.istio.io/redirection": "enabled" }), false],
  ];
  for (const [ns, one, enrolled] of cases)
    assert.equal(enrolment(ns, one, { adopt: "istio" }).enrolled, enrolled, JSON.stringify([ns, one]));
  const { enrolled, reason, code } = enrolment(namespace(mode("ambient")), pod());
  assert.deepEqual([enrolled, code], [false, null]);
  assert.match(reason, /Istio's and is followed with --adopt=istio only/);
  assert.match(
    enrolment(namespace(mode("ambient")), pod(), { adopt: "istio" }).reason,
    /the namespace is labelled istio\.io\/dataplane-mode=ambient/,
  );
});

test("an annotation that is not understood captures as if it were absent, and is reported", () => {
  const { spec, faults } = captureSpec(
    namespace({}, { [annotations.dnsCapture]: "disabled" }),
    pod(
      {},
      { probePorts: [8080] },
      {
        [annotations.excludeOutboundPorts]: "80, 443",
        [annotations.excludeInboundPorts]: "80,http",
        [annotations.excludeInboundCidrs]: "",
        [annotations.capture]: "inbound",
      },
    ),
  );
  assert.deepEqual(spec, {
    inbound: true,
    dns: false,
    excludeOutbound: { ports: [80, 443], cidrs: [] },
    excludeInbound: { ports: [], cidrs: [] },
    probePorts: [8080],
  });
  assert.deepEqual(faults.map(({ annotation }) => annotation).sort(), [annotations.capture, annotations.excludeInboundPorts]);
  assert.match(faults.find(({ annotation }) => annotation === annotations.excludeInboundPorts)?.reason ?? "", /"http" is not a port/);
  assert.equal(
    captureSpec(undefined, pod({}, {}, { [annotations.excludeOutboundPorts]: Array(257).fill("80").join(",") })).faults.length,
    1,
  );
  assert.equal(
    captureSpec(namespace({}, { [annotations.dnsCapture]: "disabled" }), pod({}, {}, { [annotations.dnsCapture]: "enabled" })).spec.dns,
    true,
  );
});

test("how far a pod is looked into is its own word, else its namespace's; a word that is none is as off, and is reported", () => {
  const says = (value?: string) => (value === undefined ? {} : { [annotations.observe]: value });
  const of = (ofNamespace?: string, ofPod?: string) => observation(namespace({}, says(ofNamespace)), pod({}, {}, says(ofPod)));
  assert.equal(of().observe, "protocol");
  assert.equal(observation(undefined, pod()).observe, "protocol");
  assert.deepEqual(of("full"), { observe: "full", faults: [] });
  assert.equal(of("full", "off").observe, "off");
  assert.equal(of("off", "sampled").observe, "sampled");
  const misread = of("everything");
  assert.equal(misread.observe, "off");
  assert.match(misread.faults[0]?.reason ?? "", /off, protocol, sampled, full/);
});

test("a port is a decimal number from 1 to 65535 and nothing else", () => {
  for (const port of [1, 80, 65535]) assert.equal(parsePort(String(port)), port);
  for (const text of ["0", "65536", "080", "+80", "8e1", "0x50", "80 ", "", "٨٠"]) assert.equal(parsePort(text), null, text);
});
