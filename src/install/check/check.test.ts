// What the checks say, on objects as API servers give them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { V1NetworkPolicy, V1Pod } from "@kubernetes/client-node";
import { checks, type Finding, finding, hasErrors, pageOf, sorted } from "../finding.ts";
import { calicoFindings, ciliumFindings, meshFindings, nodeFindings, versionFindings } from "./cluster.ts";
import { previewEnrolment } from "./enrolment.ts";
import { gatewayFindings } from "./gateway.ts";
import { networkPolicyFindings, selects } from "./network-policy.ts";
import { conditionFindings, policyFindings } from "./policies.ts";

const codes = (findings: readonly Finding[]): string[] => findings.map(({ code }) => code);

test("every code has a section of its own in docs/checks.md, with its level and what to do", () => {
  const page = readFileSync(join(import.meta.dirname, "../../../docs/checks.md"), "utf8");
  const sections = [...page.matchAll(/^### (\w+)$/gm)].map(([, code]) => code);
  assert.deepEqual([...sections].sort(), Object.keys(checks).sort());
  for (const [code, { level, next }] of Object.entries(checks)) {
    const [, section = ""] = page.split(`### ${code}\n`);
    const [body = ""] = section.split(/^##/m);
    assert.ok(body.includes(`*${level}.*`) && body.includes(`Next: ${next}.`), code);
  }
  assert.equal(pageOf("NODE_RULES"), "docs/checks.md#node_rules");
});

test("errors come first, and only they make a check fail", () => {
  const all = sorted([
    finding("ENROL_UDP", "b", ""),
    finding("NODE_KERNEL", "a", ""),
    finding("MESH_OTHER", "a", ""),
    finding("POLICY_STRICT", "a", ""),
  ]);
  assert.deepEqual(codes(all), ["NODE_KERNEL", "POLICY_STRICT", "ENROL_UDP", "MESH_OTHER"]);
  assert.equal(hasErrors(all), true);
  assert.equal(hasErrors(all.slice(1)), false);
});

test("an old API server, an old kernel and a processor without an engine are named; Windows nodes are none of ours", () => {
  assert.deepEqual(codes(versionFindings({ major: "1", minor: "29", gitVersion: "v1.29.4" })), ["CLUSTER_VERSION"]);
  assert.deepEqual(versionFindings({ major: "1", minor: "30+" }), []);
  const node = (name: string, kernelVersion: string, architecture: string, os = "linux") =>
    ({ metadata: { name, labels: { "kubernetes.io/os": os } }, status: { nodeInfo: { kernelVersion, architecture } } }) as never;
  const found = nodeFindings([
    node("a", "5.4.0-1", "amd64"),
    node("b", "6.1.0", "s390x"),
    node("c", "6.1.0", "arm64"),
    node("w", "10.0", "amd64", "windows"),
  ]);
  assert.deepEqual(
    found.map(({ code, subject }) => [code, subject]),
    [
      ["NODE_KERNEL", "node a"],
      ["NODE_ARCHITECTURE", "node b"],
    ],
  );
});

test("Cilium's and Calico's settings that break capture are named, and their mended forms are not", () => {
  const cilium = (data: Record<string, string>) => codes(ciliumFindings({ data }));
  assert.deepEqual(ciliumFindings(null), []);
  assert.deepEqual(cilium({}), ["CILIUM_EXCLUSIVE"]);
  assert.deepEqual(cilium({ "cni-exclusive": "false", "kube-proxy-replacement": "true", "enable-bpf-masquerade": "true" }), [
    "CILIUM_SOCKET_LB",
    "CILIUM_BPF_MASQUERADE",
  ]);
  assert.deepEqual(cilium({ "cni-exclusive": "false", "kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true" }), []);
  assert.deepEqual(cilium({ "cni-exclusive": "false", "bpf-lb-sock": "false", "kube-proxy-replacement": "true" }), []);
  assert.deepEqual(codes(calicoFindings({ spec: { bpfEnabled: true } })), ["CALICO_EBPF"]);
  assert.deepEqual(calicoFindings({ spec: { bpfEnabled: true, bpfConnectTimeLoadBalancing: "Disabled" } }), []);
  assert.deepEqual(calicoFindings(null), []);
});

test("a namespace of another mesh is left alone, and of two meshes at once an error", () => {
  const namespaces = [
    { metadata: { name: "a", labels: { "istio.io/dataplane-mode": "ambient" } } },
    { metadata: { name: "b", annotations: { "linkerd.io/inject": "enabled" }, labels: { "trackbed.dev/mesh": "enabled" } } },
    { metadata: { name: "c", labels: { "istio-injection": "disabled" } } },
  ];
  const found = meshFindings(namespaces, ({ metadata }) => metadata?.labels?.["trackbed.dev/mesh"] === "enabled");
  assert.deepEqual(
    found.map(({ code, subject }) => [code, subject]),
    [
      ["MESH_OTHER", "namespace a"],
      ["MESH_BOTH", "namespace b"],
    ],
  );
  const adopted = meshFindings(namespaces, () => true, "istio");
  assert.deepEqual(
    adopted.map(({ code, subject }) => [code, subject]),
    [["MESH_BOTH", "namespace b"]],
    "a label that is followed is nobody else's",
  );
});

const pod = (name: string, labels: Record<string, string> = {}, spec: object = {}, more: object = {}): V1Pod =>
  ({
    metadata: { name, namespace: "shop", uid: name, labels, ...more },
    spec: { containers: [{ name: "app" }], nodeName: "a", ...spec },
    status: { phase: "Running" },
  }) as never;

const policy = (spec: object, name = "p", namespace = "shop"): V1NetworkPolicy => ({ metadata: { name, namespace }, spec }) as never;

test("a NetworkPolicy that admits ports but not 15008 is found, whichever way it says it, and only where it selects somebody", () => {
  const web = pod("web", { app: "web" });
  const hit = (spec: object): boolean => networkPolicyFindings([policy({ podSelector: {}, ...spec })], [web]).length > 0;
  assert.equal(hit({ ingress: [{ ports: [{ port: 8080 }] }] }), true);
  assert.equal(hit({ ingress: [{ ports: [{ port: "http" }] }] }), true);
  assert.equal(hit({ ingress: [{ from: [{}] }] }), false, "every port");
  assert.equal(hit({ ingress: [{ ports: [{ port: 8080 }, { port: 15008 }] }] }), false);
  assert.equal(hit({ ingress: [{ ports: [{ port: 15000, endPort: 15100 }] }] }), false);
  assert.equal(hit({ ingress: [{ ports: [{ port: 15008, protocol: "UDP" }, { port: 80 }] }] }), true);
  assert.equal(hit({ ingress: [{ ports: [{ protocol: "TCP" }] }] }), false);
  assert.equal(
    hit({ ingress: [{ ports: [{ port: 5353, protocol: "UDP" }] }] }),
    false,
    "nothing of TCP is admitted, so nothing of the mesh is lost",
  );
  assert.equal(hit({ ingress: [] }), false, "isolated on purpose");
  assert.equal(
    hit({
      egress: [
        {
          ports: [
            { port: 53, protocol: "TCP" },
            { port: 53, protocol: "UDP" },
          ],
        },
      ],
    }),
    false,
  );
  assert.equal(hit({ egress: [{ ports: [{ port: 5432 }] }] }), true);
  assert.deepEqual(
    networkPolicyFindings([policy({ podSelector: { matchLabels: { app: "api" } }, ingress: [{ ports: [{ port: 1 }] }] })], [web]),
    [],
  );
  assert.deepEqual(networkPolicyFindings([policy({ podSelector: {}, ingress: [{ ports: [{ port: 1 }] }] }, "p", "other")], [web]), []);
  const [found] = networkPolicyFindings([policy({ podSelector: {}, ingress: [{}, { ports: [{ port: 1 }] }] })], [web]);
  assert.match(
    `${found?.subject}: ${found?.message}`,
    /NetworkPolicy shop\/p: spec\.ingress\[1\] admits ports but not TCP 15008, for pod web/,
  );
});

test("selectors match as the API server's do", () => {
  const labels = { app: "web", tier: "1" };
  const expression = (operator: string, key: string, values?: string[]) =>
    selects({ matchExpressions: [{ key, operator, ...(values === undefined ? {} : { values }) }] }, labels);
  assert.equal(selects({}, labels), true);
  assert.equal(selects(undefined, labels), true);
  assert.deepEqual(
    [expression("In", "app", ["web", "x"]), expression("In", "app", ["x"]), expression("In", "none", ["x"])],
    [true, false, false],
  );
  assert.deepEqual(
    [expression("NotIn", "app", ["x"]), expression("NotIn", "app", ["web"]), expression("NotIn", "none", ["x"])],
    [true, false, true],
  );
  assert.deepEqual(
    [expression("Exists", "app"), expression("DoesNotExist", "app"), expression("DoesNotExist", "none")],
    [true, false, true],
  );
});

const security = (kind: string, name: string, spec: object, more: object = {}, namespace = "shop") => ({
  apiVersion: "security.istio.io/v1",
  kind,
  metadata: { name, namespace },
  spec,
  ...more,
});

test("policies that would be stricter than elsewhere are named before the first pod is enrolled, and only where they act", () => {
  const documents = [
    security("AuthorizationPolicy", "http", { action: "DENY", rules: [{ to: [{ operation: { methods: ["POST"] } }] }] }),
    security("AuthorizationPolicy", "l4", { action: "DENY", rules: [{ to: [{ operation: { ports: ["80"] } }] }] }),
    security("AuthorizationPolicy", "broken", { rules: [{ from: [{ source: { ipBlocks: [] } }] }] }),
    security("PeerAuthentication", "strict", { mtls: { mode: "STRICT" } }),
    security("PeerAuthentication", "elsewhere", { mtls: { mode: "STRICT" } }, {}, "other"),
    security("PeerAuthentication", "mesh", { mtls: { mode: "STRICT" } }, {}, "trackbed-system"),
  ];
  const found = policyFindings(documents, (namespace) => namespace === "shop", "trackbed-system");
  assert.deepEqual(
    found.map(({ code, subject }) => `${code} ${subject}`),
    [
      "POLICY_STRICTER AuthorizationPolicy shop/http",
      "POLICY_INVALID AuthorizationPolicy shop/broken",
      "POLICY_STRICT PeerAuthentication shop/strict",
      "POLICY_STRICT PeerAuthentication trackbed-system/mesh",
    ],
  );
  assert.match(
    found[0]?.message ?? "",
    /spec\.rules\[0\]\.to\[0\]\.operation\.methods cannot be enforced without HTTP: everything it selects is denied/,
  );
});

test("what control said of a policy is told once, and not a second time by our own reading", () => {
  const status = {
    conditions: [{ type: "trackbed.dev/Accepted", status: "False", reason: "E_SOURCE_INVALID", message: "spec.x: is not known" }],
  };
  const broken = security("AuthorizationPolicy", "broken", { rules: [{ from: [{ source: {} }] }] }, { status });
  assert.deepEqual(
    policyFindings([broken], () => true, "trackbed-system"),
    [],
  );
  assert.match(conditionFindings([broken])[0]?.message ?? "", /spec\.x: is not known \(E_SOURCE_INVALID\)/);
});

test("enrol --dry-run lists what stays outside, what may undo its capture, what is in the way and what goes on as before", () => {
  const container = (more: object) => ({ containers: [{ name: "app", image: "x", ...more }] });
  const { pods, findings } = previewEnrolment({ metadata: { name: "shop", uid: "n" } }, [
    pod(
      "web",
      {},
      container({
        ports: [
          { containerPort: 8080 },
          { containerPort: 15008 },
          { containerPort: 514, protocol: "UDP" },
          { containerPort: 53, protocol: "UDP" },
        ],
      }),
    ),
    pod("agent", {}, { hostNetwork: true }),
    pod("vpn", {}, container({ securityContext: { capabilities: { add: ["NET_ADMIN"] } } })),
    pod("istio", {}, {}, { annotations: { "sidecar.istio.io/status": "{}" } }),
    pod("typo", { "trackbed.dev/mesh": "true" }),
    pod("out", { "trackbed.dev/mesh": "disabled" }),
    pod("gate", {}, {}, { annotations: { "trackbed.dev/capture": "outbound", "trackbed.dev/exclude-inbound-ports": "http" } }),
    { ...pod("done"), status: { phase: "Succeeded" } },
    pod("leaving", {}, {}, { deletionTimestamp: "2026-01-01T00:00:00Z" }),
  ]);
  assert.deepEqual(
    pods.map(({ name, enrolled }) => [name, enrolled]),
    [
      ["web", true],
      ["agent", false],
      ["vpn", true],
      ["istio", false],
      ["typo", false],
      ["out", false],
      ["gate", true],
    ],
  );
  assert.deepEqual(codes(findings), [
    "ENROL_OWN_PORT",
    "ENROL_UDP",
    "ENROL_HOST_NETWORK",
    "ENROL_NET_ADMIN",
    "ENROL_FOREIGN_MESH",
    "ENROL_LABEL",
    "ENROL_OUTBOUND",
    "ENROL_ANNOTATION",
    "ENROL_REOPEN",
  ]);
  assert.match(findings.at(-1)?.message ?? "", /^3 running pods/);
});

test("a cluster without the Gateway API is told of, with who asks for a waypoint; Gateways of ours that lack something are", () => {
  const namespace = (name: string, written: Record<string, string>) => ({ metadata: { name, labels: written } });
  const [absent] = gatewayFindings(null, [namespace("shop", { "trackbed.dev/waypoint": "auto" }), namespace("bank", {})]);
  assert.equal(absent?.code, "GATEWAY_API_ABSENT");
  assert.match(absent?.message ?? "", /namespace shop asks/);
  const gateway = (gatewayClassName: string, status: string) => ({
    metadata: { name: gatewayClassName, namespace: "shop" },
    spec: { gatewayClassName },
    status: { conditions: [{ type: "Programmed", status, reason: "Invalid", message: "Service shop/way is there already" }] },
  });
  const found = gatewayFindings([gateway("trackbed-waypoint", "False"), gateway("istio", "False")], []);
  assert.deepEqual(codes(found), ["WAYPOINT_NOT_READY"]);
  assert.match(found[0]?.message ?? "", /Programmed: Service shop\/way/);
  assert.deepEqual(gatewayFindings([gateway("trackbed-waypoint", "True")], []), []);
});
