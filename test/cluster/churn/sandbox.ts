// A pod's network namespace, made and taken down by the node's own CNI configuration as a container runtime does it.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { execute, run } from "../command.ts";

const CONF = "/etc/cni/net.d";
const BIN = "/opt/cni/bin";
/** Above what a plugin takes that waits for the mesh (25 s). */
const PLUGIN_MS = 40_000;

export type PodName = { readonly namespace: string; readonly name: string; readonly uid: string };
export type Sandbox = { readonly pod: PodName; readonly id: string; readonly netns: string; readonly address: string };

type Plugin = { readonly type: string; readonly capabilities?: { readonly ips?: boolean } };
type Conflist = { readonly cniVersion: string; readonly name: string; readonly plugins: readonly Plugin[] };

/** How long the last plugin of the chain took, which is the mesh's. Rejects with a plugin's own words; whatever was made until then is for removeSandbox. */
export async function makeSandbox(sandbox: Sandbox): Promise<number> {
  await run(["ip", "netns", "add", sandbox.id]);
  await run(["ip", "-n", sandbox.id, "link", "set", "lo", "up"]);
  const list = configuration();
  let result: unknown;
  let began = performance.now();
  for (const plugin of list.plugins) {
    began = performance.now();
    result = await call("ADD", list, plugin, sandbox, result);
  }
  return performance.now() - began;
}

/** The containers are dead. As a runtime does, in the reverse order, and on after a failure: the address has to come back. */
export async function removeSandbox(sandbox: Sandbox): Promise<string[]> {
  const list = configuration();
  const complaints: string[] = [];
  for (const plugin of list.plugins.toReversed())
    await call("DEL", list, plugin, sandbox, undefined).catch((error: Error) => complaints.push(error.message));
  await run(["ip", "netns", "del", sandbox.id]);
  return complaints;
}

/** The first file by name is the one: ours, once the daemon has put it there. */
function configuration(): Conflist {
  const [first] = readdirSync(CONF)
    .filter((name) => name.endsWith(".conflist"))
    .sort();
  if (first === undefined) throw new Error(`there is no CNI configuration in ${CONF}`);
  return JSON.parse(readFileSync(join(CONF, first), "utf8")) as Conflist;
}

async function call(
  command: "ADD" | "DEL",
  list: Conflist,
  plugin: Plugin,
  { pod, id, netns, address }: Sandbox,
  prevResult: unknown,
): Promise<unknown> {
  const { cniVersion, name } = list;
  const runtimeConfig = plugin.capabilities?.ips === true ? { ips: [`${address}/24`] } : {};
  const environment = {
    CNI_COMMAND: command,
    CNI_CONTAINERID: id,
    CNI_NETNS: netns,
    CNI_IFNAME: "eth0",
    CNI_PATH: BIN,
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${pod.namespace};K8S_POD_NAME=${pod.name};K8S_POD_INFRA_CONTAINER_ID=${id};K8S_POD_UID=${pod.uid}`,
  };
  const input = JSON.stringify({ cniVersion, name, ...plugin, runtimeConfig, ...(prevResult === undefined ? {} : { prevResult }) });
  const env = { PATH: process.env["PATH"], ...environment };
  const { code, stdout } = await execute([join(BIN, plugin.type)], { input, env, deadlineMs: PLUGIN_MS });
  if (code !== 0) throw new Error(`${command} by ${plugin.type}: ${stdout.trim() || `exit ${code}`}`);
  return stdout.trim() === "" ? prevResult : (JSON.parse(stdout) as unknown);
}
