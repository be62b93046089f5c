// `trackbed install`: puts the mesh into a cluster, or brings it to this version, and waits until it works.
import { baseFiles, crdFiles } from "#install/files.ts";
import { hasErrors } from "#install/finding.ts";
import { isOurs, stagesOf } from "#install/plan.ts";
import { type Manifest, objectsOf, renderFiles } from "#install/render.ts";
import type { Values } from "#install/values.ts";
import { findingPage } from "../findings.ts";
import { type Exit, exit, type Format } from "../outcome.ts";
import { type Applied, type Cluster, connect, type Target } from "./client.ts";
import { clusterFindings, readFacts } from "./facts.ts";
import { controlRollout, imageOf, lookAt, nodeRollouts, type Parts, readParts, tagOf } from "./parts.ts";
import { type Say, sayOnStderr, waitFor } from "./wait.ts";

export type InstallOptions = {
  readonly values: Values;
  readonly dryRun: boolean;
  readonly skipChecks: boolean;
  readonly timeoutMs: number;
};

type Change = { readonly object: string; readonly result: Applied | "kept" };

export async function runInstall(target: Target, options: InstallOptions, format: Format): Promise<Exit> {
  const files = renderFiles(baseFiles(), options.values);
  if (options.dryRun) {
    const all = [...crdFiles(), ...files];
    const list = { apiVersion: "v1", kind: "List", items: objectsOf(all) };
    console.log(format === "json" ? JSON.stringify(list, null, 2) : all.map(({ text }) => text).join("---\n"));
    return exit.ok;
  }
  const cluster = await connect(target);
  try {
    if (!options.skipChecks) {
      const findings = clusterFindings(await readFacts(cluster)).filter(({ code }) => BEFORE.test(code));
      if (findings.length > 0) sayOnStderr(findingPage(findings));
      if (hasErrors(findings)) {
        sayOnStderr("nothing was installed; --skip-checks installs all the same");
        return exit.failed;
      }
    }
    const changes = await install(cluster, objectsOf(files), objectsOf(crdFiles()), options.timeoutMs, sayOnStderr);
    const parts = await readParts(cluster);
    const old = outdatedEngines(parts, options.values.tag);
    if (format === "json") console.log(JSON.stringify({ installed: true, server: cluster.server, changes, outdatedEngines: old }, null, 2));
    else console.log(success(options.values.tag, parts, old));
    return exit.ok;
  } finally {
    await cluster.close();
  }
}

/** What can be said before anything of ours runs; the rest is for `check`. */
const BEFORE = /^(CLUSTER|CILIUM|CALICO)_|^NODE_(KERNEL|ARCHITECTURE)$/;

/** Applies what is missing or differs, in the order in which it can work, and waits for each stage. */
export async function install(
  cluster: Cluster,
  manifests: readonly Manifest[],
  crds: readonly Manifest[],
  timeoutMs: number,
  say: Say,
): Promise<Change[]> {
  const started = performance.now();
  const left = (): number => Math.max(0, timeoutMs - (performance.now() - started));
  const changes: Change[] = [];
  const record = (manifest: Manifest, result: Change["result"]): void => {
    changes.push({ object: nameOf(manifest), result });
    if (result !== "unchanged" && result !== "kept") say(`${nameOf(manifest)} ${result}`);
  };
  for (const crd of crds) {
    // Another mesh's belongs to that mesh, as long as it lives.
    const there = await cluster.get<Manifest>("CustomResourceDefinition", crd.metadata.name);
    record(crd, there === null || isOurs(there) ? await cluster.apply(crd) : "kept");
  }
  const { control, nodes } = stagesOf(manifests);
  for (const manifest of control) record(manifest, await cluster.apply(manifest));
  await waitFor(
    async () => {
      const parts = await readParts(cluster);
      return lookAt(
        [controlRollout(parts)],
        parts.pods.filter(({ metadata }) => metadata?.name?.startsWith("trackbed-control")),
      );
    },
    left(),
    say,
  );
  for (const manifest of nodes) record(manifest, await cluster.apply(manifest));
  await waitFor(
    async () => {
      const parts = await readParts(cluster);
      return lookAt([controlRollout(parts), ...nodeRollouts(parts)], parts.pods);
    },
    left(),
    say,
  );
  return changes;
}

const nameOf = ({ kind, metadata }: Manifest): string =>
  `${kind} ${metadata.namespace === undefined ? "" : `${metadata.namespace}/`}${metadata.name}`;

/** Engines never roll by themselves: their end cuts connections. */
const outdatedEngines = ({ pods }: Parts, tag: string): { pod: string; node: string; version: string }[] =>
  pods
    .filter((pod) => pod.metadata?.labels?.["app.kubernetes.io/name"] === "trackbed-engine" && tagOf(imageOf(pod)) !== tag)
    .map((pod) => ({ pod: pod.metadata?.name ?? "", node: pod.spec?.nodeName ?? "", version: tagOf(imageOf(pod)) }));

function success(tag: string, { daemon }: Parts, old: ReturnType<typeof outdatedEngines>): string {
  const count = daemon?.status?.desiredNumberScheduled ?? 0;
  const lines = [`Trackbed ${tag} works on ${count} node${count === 1 ? "" : "s"}. Next: trackbed enrol NAMESPACE`];
  if (old.length > 0)
    lines.push(
      "These engines are of another version and go on until their pods are deleted, which cuts the connections of the node's enrolled pods:",
      ...old.map(({ pod, node, version }) => `  ${node}: ${version}    kubectl -n trackbed-system delete pod ${pod}`),
    );
  return lines.join("\n");
}
