// One source, three ways out. What a real Helm and a real kubectl make of it is a drill: test/cluster/drills/1-manifests.test.ts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse, parseAllDocuments } from "yaml";
import { kubernetes, ports, product } from "#contract/tables.ts";
import { chart } from "./chart.ts";
import { definitions } from "./definition.ts";
import { baseFiles, crdFiles } from "./files.ts";
import { isKind, listPath } from "./kinds.ts";
import { type Manifest, objectsOf, renderFiles } from "./render.ts";
import { defaults, type Values } from "./values.ts";

const root = join(import.meta.dirname, "../..");
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
const other: Values = {
  registry: "registry.example:5000/mesh",
  tag: "9.9.9-test",
  imagePullSecrets: ["one", "two"],
  trustDomain: "example.org",
  clusterDomain: "k8s.example.org",
  adopt: "istio",
  issuer: "ClusterIssuer/mesh-ca",
  otlpEndpoint: "http://collector.observe.svc:4318",
  exportFile: "/var/lib/trackbed/flows.jsonl",
  cniBin: "/home/kubernetes/bin",
  cniConf: "/var/lib/rancher/net.d",
  kubelet: "/data/kubelet",
};
const render = (values: Values): Manifest[] => objectsOf(renderFiles(baseFiles(), values));
const id = ({ kind, metadata }: Manifest): string => `${kind}/${metadata.namespace ?? ""}/${metadata.name}`;

test("the definitions of our own kinds are those that their schemas say", () => {
  for (const [name, text] of definitions())
    assert.equal(crdFiles().find((file) => file.name === name)?.text, text, `${name}: run node daemonset/definitions.ts`);
});

test("with the default values the rendered objects are the base's own, and the base is of this version", () => {
  assert.deepEqual(render(defaults(version)), objectsOf(baseFiles()));
});

test("every value arrives in the objects, and none of the base's stays", () => {
  const whole = JSON.stringify(render(other));
  for (const value of [...Object.values(other)].flat()) assert.ok(whole.includes(value), value);
  const { imagePullSecrets: _, ...own } = defaults(version);
  for (const text of [`"image":"${own.registry}`, `"path":"${own.cniBin}`, `"path":"${own.cniConf}`, `"path":"${own.kubelet}`])
    assert.ok(!whole.includes(text), text);
  // inside the containers paths stay, whatever they are on the node
  assert.match(whole, /"mountPath":"\/opt\/cni\/bin"/);
});

test("values that could break out of their place are refused", () => {
  for (const change of [
    { tag: 'x" y' },
    { registry: "a b" },
    { trustDomain: "Not.A.Name" },
    { cniBin: "relative" },
    { otlpEndpoint: "collector:4318" },
    { exportFile: "/var/lib/trackbed/../passwd" },
    { imagePullSecrets: ["A"] },
  ])
    assert.throws(() => render({ ...other, ...change }), /does not match|is not a DNS name/);
});

/** What Helm does with these templates: they hold nothing but values, a default and toJson. */
function helm(files: ReadonlyMap<string, string>, values: Record<string, unknown>): Manifest[] {
  const { appVersion } = parse(files.get("Chart.yaml") ?? "") as { appVersion: string };
  const fill = (action: string): string => {
    const [, json, name = "", fallback] =
      /^(toJson )?\.Values\.(\w+)( \| default \.Chart\.AppVersion)?$/.exec(action) ?? assert.fail(action);
    const value = values[name];
    assert.notEqual(value, undefined, name);
    return json === undefined ? String(fallback !== undefined && value === "" ? appVersion : value) : JSON.stringify(value);
  };
  return [...files]
    .filter(([path]) => path.startsWith("templates/"))
    .flatMap(([, text]) => parseAllDocuments(text.replace(/\{\{ (.*?) \}\}/g, (_, action: string) => fill(action))))
    .map((document) => document.toJS() as Manifest);
}

test("the Helm chart gives the same objects, with its own values and with others", () => {
  const files = chart(baseFiles(), crdFiles(), version);
  const own = parse(files.get("values.yaml") ?? "") as Record<string, unknown>;
  assert.deepEqual(helm(files, own), render(defaults(version)));
  const secrets = other.imagePullSecrets.map((name) => ({ name }));
  assert.deepEqual(helm(files, { ...other, imagePullSecrets: secrets }), render(other));
});

test("the base uses the names, ports and labels of the tables", () => {
  const objects = objectsOf(baseFiles());
  const names = new Set(objects.map(id));
  const namespace = product.controlPlaneNamespace;
  for (const wanted of [
    `Namespace//${namespace}`,
    `Deployment/${namespace}/${kubernetes.control}`,
    `Service/${namespace}/${kubernetes.control}`,
    `DaemonSet/${namespace}/${kubernetes.daemon}`,
    `DaemonSet/${namespace}/${kubernetes.engine}`,
    `ConfigMap/${namespace}/${kubernetes.rootConfigMap}`,
  ])
    assert.ok(names.has(wanted), wanted);
  const text = JSON.stringify(objects);
  for (const word of [
    `--control=https://${kubernetes.control}.${namespace}.svc:${ports.control}`,
    `--health=127.0.0.1:${ports.daemonHealth}`,
    `--metrics=127.0.0.1:${ports.engineMetrics}`,
    `--health=0.0.0.0:${ports.controlHealth}`,
    `"audience":"${kubernetes.tokenAudience}"`,
    `"path":"${kubernetes.rootKey}"`,
  ])
    assert.ok(text.includes(word), word);
  // uninstall finds what is ours by this label
  for (const object of objects) assert.equal(object.metadata.labels?.["app.kubernetes.io/part-of"], "trackbed", id(object));
});

test("every kind that is installed, and every kind that its definitions define, can be found again to be taken away", () => {
  for (const { kind } of [...objectsOf(renderFiles(baseFiles(), defaults(version))), ...objectsOf(crdFiles())])
    assert.ok(isKind(kind), kind);
  for (const { spec } of objectsOf(crdFiles()) as readonly unknown[] as readonly { readonly spec: Definition }[]) {
    assert.ok(isKind(spec.names.kind), spec.names.kind);
    const places = spec.versions.map(({ name }) => `/apis/${spec.group}/${name}/${spec.names.plural}`);
    assert.ok(places.includes(listPath(spec.names.kind)), `${listPath(spec.names.kind)} is none of ${places.join(", ")}`);
  }
});

type Definition = {
  readonly group: string;
  readonly names: { readonly kind: string; readonly plural: string };
  readonly versions: readonly { readonly name: string }[];
};
