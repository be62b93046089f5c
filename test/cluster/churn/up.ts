// Brings up the cluster of the churn: a real API server, nodes that run our kubelet, daemon and engine, and control beside the API server.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Api, connectApi } from "#source/kubernetes/api.ts";
import { build } from "../build.ts";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { makeKeys, tokenKubeconfig } from "../keys.ts";
import { diskOf } from "../machine/disk.ts";
import { powerOn } from "../machine/power.ts";
import { CONTROL_PLANE, type Node, ROOT, type Settings } from "../settings.ts";
import type { Say } from "../up.ts";

const SYSTEM = "trackbed-system";
const START_MS = 120_000;
/** Longer than any churn. */
const TOKEN_SECONDS = 4 * 3600;
const BASE = join(ROOT, "daemonset/base");

export async function upChurn(settings: Settings, say: Say): Promise<Cluster> {
  if (process.getuid?.() !== 0) throw new Error("a cluster makes namespaces, mounts and cgroups: run as root");
  for (const directory of [settings.state, settings.cache]) mkdirSync(directory, { recursive: true });
  await build(settings, say);
  await makeKeys(settings);
  await powerOn(settings, CONTROL_PLANE);
  for (const { name } of settings.nodes) await powerOn(settings, name);
  const c = await cluster(settings);
  await waitFor("the API server is ready", () => c.kubectl("get", "--raw", "/readyz"), START_MS);
  say("API server ready");
  await c.kubectl("apply", "--server-side", "-k", join(ROOT, "daemonset/crds"));
  for (const file of ["namespace.yaml", "rights.yaml"]) await c.apply(readFileSync(join(BASE, file), "utf8"));
  writeFileSync(join(settings.state, "keys/control.kubeconfig"), tokenKubeconfig(settings, await token(c, "trackbed-control")), {
    mode: 0o600,
  });
  for (const node of settings.nodes) await register(c, node);
  const root = await waitFor("control publishes its root", async () => rootOf(c), START_MS);
  say("control ready");
  for (const node of settings.nodes) await give(c, node, root);
  for (const { name } of settings.nodes)
    await waitFor(`the daemon of ${name} is ready`, () => c.onNode(name, "curl -sf http://127.0.0.1:15021/healthz/ready"), START_MS);
  say("daemons ready");
  return c;
}

async function register(c: Cluster, { name, ip, podCidr }: Node): Promise<void> {
  await c.apply(JSON.stringify({ apiVersion: "v1", kind: "Node", metadata: { name }, spec: { podCIDR: podCidr, podCIDRs: [podCidr] } }));
  const status = { conditions: [{ type: "Ready", status: "True" }], addresses: [{ type: "InternalIP", address: ip }] };
  await c.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", JSON.stringify({ status }));
}

async function rootOf(c: Cluster): Promise<string | null> {
  const { data } = await c.get<{ data?: { "root-cert.pem"?: string } }>("configmap", "trackbed-root", "-n", SYSTEM);
  return data?.["root-cert.pem"] ?? null;
}

/** What the kubelet would mount: the root, a token of the daemon's pod for control, and one for the API server. */
async function give(c: Cluster, { name }: Node, root: string): Promise<void> {
  const pod = `trackbed-daemon-${name}`;
  await c.apply(daemonPod(pod, name));
  const directory = join(diskOf(c.settings, name), "etc/kubernetes/trackbed");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const write = (file: string, text: string): void => writeFileSync(join(directory, file), text, { mode: 0o600 });
  const bound = ["--bound-object-kind=Pod", `--bound-object-name=${pod}`];
  write("root-cert.pem", root);
  write("token", await token(c, "trackbed-daemon", "--audience=trackbed", ...bound));
  write("kubeconfig", tokenKubeconfig(c.settings, await token(c, "trackbed-daemon", ...bound)));
  write("made", "");
}

const token = async (c: Cluster, account: string, ...flags: readonly string[]): Promise<string> =>
  (await c.kubectl("-n", SYSTEM, "create", "token", account, `--duration=${TOKEN_SECONDS}s`, ...flags)).trim();

const daemonPod = (name: string, nodeName: string): string =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: SYSTEM, labels: { "app.kubernetes.io/name": "trackbed-daemon" } },
    spec: {
      nodeName,
      serviceAccountName: "trackbed-daemon",
      hostNetwork: true,
      tolerations: [{ operator: "Exists" }],
      containers: [{ name: "daemon", image: "none" }],
    },
  });

/** For thousands of requests: kubectl takes 0.1 s of CPU for each. */
export const admin = (settings: Settings): Promise<Api> => connectApi(settings.kubeconfig);
