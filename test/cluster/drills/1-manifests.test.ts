// One source, three ways out: a real Helm and a real `kubectl kustomize` give the objects that `trackbed install --dry-run` prints.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseAllDocuments } from "yaml";
import { chart } from "#install/chart.ts";
import { writeChart } from "#install/chart-directory.ts";
import { baseFiles, crdFiles } from "#install/files.ts";
import { ensure, helm as helmPart } from "../build.ts";
import { type Cluster, cluster } from "../cluster.ts";
import { run } from "../command.ts";
import { ROOT } from "../settings.ts";
import { trackbed } from "../trackbed.ts";

type Manifest = { readonly kind: string; readonly metadata: { readonly name: string; readonly namespace?: string } };

/** By kind, namespace and name: each way has an order of its own. */
function objects(text: string): Manifest[] {
  const id = ({ kind, metadata }: Manifest): string => `${kind}/${metadata.namespace ?? ""}/${metadata.name}`;
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest)
    .sort((a, b) => id(a).localeCompare(id(b)));
}

const isDefinition = ({ kind }: Manifest): boolean => kind === "CustomResourceDefinition";
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
const directory = mkdtempSync(join(tmpdir(), "trackbed-chart-"));
after(() => rmSync(directory, { recursive: true }));

let c: Cluster;
let helm = "";
before(async () => {
  c = await cluster();
  helm = join(await ensure(c.settings, helmPart, console.log), "helm");
  writeChart(directory, chart(baseFiles(), crdFiles(), version));
});

const installed = async (...flags: readonly string[]): Promise<Manifest[]> =>
  objects(await run(trackbed.argv("install", "--dry-run", ...flags), { env: trackbed.env(c.settings) }));

test("Helm finds nothing wrong with the chart", async () => {
  await run([helm, "lint", "--strict", directory]);
});

test("Helm renders what `trackbed install` would apply, definitions included, with its own values and with others", async () => {
  const own = objects(await run([helm, "template", "trackbed", directory, "--include-crds"]));
  assert.ok(own.some(isDefinition) && own.some(({ kind }) => kind === "DaemonSet"));
  assert.deepEqual(own, await installed());
  const values =
    "registry=registry.example:5000/mesh,trustDomain=example.org,adopt=istio,issuer=ClusterIssuer/mesh,imagePullSecrets[0].name=one";
  const others = objects(await run([helm, "template", "trackbed", directory, "--include-crds", "--set", values]));
  const flags = [
    "--registry",
    "registry.example:5000/mesh",
    "--trust-domain",
    "example.org",
    "--adopt",
    "istio",
    "--issuer",
    "ClusterIssuer/mesh",
    "--image-pull-secret",
    "one",
  ];
  assert.deepEqual(others, await installed(...flags));
});

test("Helm refuses values that could break out of their place, and keys that mean nothing", async () => {
  for (const value of ["registry=a b", "cniBin=relative", "nonsense=1"])
    await assert.rejects(run([helm, "template", "trackbed", directory, "--set", value]), /values don't meet the specifications/);
});

test("the API server of a cluster without the mesh knows every kind and field that the chart installs", async () => {
  const flags = ["--namespace", "kube-system", "--kubeconfig", c.settings.kubeconfig];
  await run([helm, "install", "trackbed", directory, "--dry-run=server", ...flags]);
  assert.equal((await run([helm, "list", "--all", "--short", ...flags])).trim(), "", "a dry run leaves no release");
});

test("kubectl kustomize gives the base and the definitions as they are", async () => {
  const whole = await installed();
  const kustomized = async (folder: string): Promise<Manifest[]> => objects(await c.kubectl("kustomize", join(ROOT, "daemonset", folder)));
  assert.deepEqual(
    await kustomized("base"),
    whole.filter((one) => !isDefinition(one)),
  );
  assert.deepEqual(await kustomized("crds"), whole.filter(isDefinition));
});
