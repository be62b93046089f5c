// `trackbed node check`: tries on this node what the mesh will do on it, and says what it lacks. Runs before the daemon in its pod.
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { formatReport, isUsable, type NodeFacts, type NodeReport, nodeReport, reportFindings } from "#install/node-report.ts";
import { explainError } from "#mesh/error.ts";
import { chooseBackend } from "#redirect/choose.ts";
import { run } from "#redirect/command.ts";
import { plan } from "#redirect/plan.ts";
import { until } from "../../lab/until.ts";
import { findingPage } from "../findings.ts";
import { type Exit, exit, type Format } from "../outcome.ts";

export type NodeCheckOptions = {
  readonly cniBin: string;
  readonly cniConf: string;
  /** Where the report goes for the API server to see; the kubelet reads /dev/termination-log. */
  readonly report: string | undefined;
};

const NETNS_DEADLINE_MS = 5000;
const OWN = "00-trackbed.conflist";

export async function runNodeCheck(options: NodeCheckOptions, node: string, format: Format): Promise<Exit> {
  const report = nodeReport(await factsOf(options));
  if (options.report !== undefined) writeFileSync(options.report, formatReport(report));
  console.log(format === "json" ? JSON.stringify(report) : page(node, report));
  return isUsable(report) ? exit.ok : exit.failed;
}

const page = (node: string, report: NodeReport): string =>
  report.found.length === 0
    ? `node ${node} (Linux ${report.kernel}): everything that the mesh needs is there`
    : findingPage(reportFindings(node, report));

async function factsOf({ cniBin, cniConf }: NodeCheckOptions): Promise<NodeFacts> {
  const { netns, rules } = await tryRules();
  return {
    kernel: release(),
    netns,
    rules,
    cniBin: writable(cniBin),
    cniConf: writable(cniConf),
    cniConfigurations: existsSync(cniConf)
      ? readdirSync(cniConf).filter((name) => /\.(conf|conflist|json)$/.test(name) && name !== OWN)
      : [],
    selinuxEnforcing: readOr("/sys/fs/selinux/enforce", "0").trim() === "1",
    cgroup: cgroupOf(readOr("/proc/self/cgroup", "")),
  };
}

const readOr = (path: string, absent: string): string => (existsSync(path) ? readFileSync(path, "utf8") : absent);

/** v2 alone has only the line "0::"; v1 alone has none with controllers empty. */
function cgroupOf(text: string): NodeFacts["cgroup"] {
  const lines = text.split("\n").filter((line) => line !== "");
  const v1 = lines.some((line) => !line.startsWith("0::") && !line.includes(":name="));
  const v2 = lines.some((line) => line.startsWith("0::"));
  if (!v1) return "v2";
  return v2 && !lines.includes("0::/") ? "both" : "v1";
}

function writable(directory: string): NodeFacts["cniBin"] {
  const probe = join(directory, `.trackbed-check-${process.pid}`);
  try {
    writeFileSync(probe, "");
    rmSync(probe);
    return "writable";
  } catch (error) {
    return { failed: explainError(error) };
  }
}

/** The very rules of a pod, in a namespace that ends with this function. */
async function tryRules(): Promise<Pick<NodeFacts, "netns" | "rules">> {
  const holder = spawn("unshare", ["--net", "--", process.execPath, "-e", "process.stdin.resume()"], { stdio: ["pipe", "ignore", "pipe"] });
  let said = "";
  holder.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const ended = new Promise<void>((resolve) => {
    holder.once("exit", () => resolve());
    holder.once("error", (error) => {
      said += error.message;
      resolve();
    });
  });
  try {
    const netns = `/proc/${holder.pid}/ns/net`;
    const own = readlinkSync("/proc/self/ns/net");
    const entered = (): boolean => holder.exitCode === null && holder.pid !== undefined && readlinkSync(netns) !== own;
    await Promise.race([
      until("a network namespace is made", entered, NETNS_DEADLINE_MS, () => said),
      ended.then(() => Promise.reject(new Error(said.trim() || "unshare ended"))),
    ]);
    return { netns: "work", rules: await loadRules(netns) };
  } catch (error) {
    return { netns: { failed: explainError(error) }, rules: { failed: "not tried" } };
  } finally {
    holder.stdin.end();
    holder.kill("SIGKILL");
    await ended;
  }
}

async function loadRules(netns: string): Promise<NodeFacts["rules"]> {
  const nothing = { ports: [], cidrs: [] };
  const wanted = plan({ inbound: true, dns: true, excludeOutbound: nothing, excludeInbound: nothing, probePorts: [8080] });
  try {
    const { backend } = await chooseBackend("auto");
    await run(netns, ["ip", "link", "set", "lo", "up"]); // as every pod has it
    await backend.apply(netns, wanted);
    const { rules, differences } = backend.compare(await backend.read(netns), wanted);
    return rules === "equal" ? "work" : { failed: `read back they are ${rules}: ${differences.join("; ")}` };
  } catch (error) {
    return { failed: explainError(error) };
  }
}
