// The demo's last policy is made from what the demo itself did: that goes on, and what nobody did before is refused.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { FlowRecord } from "#inspect/flow.ts";
import { NOTHING_ELSE } from "#inspect/generate/yaml.ts";
import type { PodPlace } from "../../lab/api.ts";
import { until } from "../../lab/until.ts";
import { nodeState } from "../ask/state.ts";
import type { Demo } from "./checks.ts";

const FILE = "95-demo-least.yaml";
const DEADLINE_MS = 5000;
const COMMAND_MS = 30_000;
const MAIN = join(import.meta.dirname, "../main.ts");

const answers = async (pod: PodPlace, url: string): Promise<boolean> =>
  (await pod.exec(["curl", "-sS", "--fail", "--max-time", "2", "-o", "/dev/null", url])).code === 0;

export async function leastHolds({ lab, copy, flows }: Demo): Promise<string> {
  const [shopper, api, outsider] = [lab.pod("shopper"), lab.pod("api"), lab.pod("outsider")];
  const out = join(copy.directory, FILE);
  const runs = lab.nodes.flatMap(({ runDirectory }) => ["--run", runDirectory]);
  const words = ["generate", "policy", "shop", "--directory", copy.directory, ...runs, "--enforced", "--out", out];
  await promisify(execFile)(process.execPath, [MAIN, ...words], { timeout: COMMAND_MS });
  try {
    await until(
      "the nodes hold the policies",
      async () => (await Promise.all(lab.nodes.map(({ runDirectory }) => holds(runDirectory)))).every(Boolean),
      DEADLINE_MS,
    );
    for (const [pod, url] of [
      [shopper, "http://web.shop/order?note=still"],
      [outsider, "http://web.shop/order?note=still"],
      [shopper, "http://stock/"],
    ] as const)
      if (!(await answers(pod, url)))
        throw new Error(`${pod.name} was seen at ${url} before, and is refused:\n${readFileSync(out, "utf8")}`);
    const since = flows.mark();
    if (await answers(api, "http://web/ready")) throw new Error(`api was never seen at web, and is let in:\n${readFileSync(out, "utf8")}`);
    const { code } = await flows.find("api refused by web", isRefusal, since);
    const policies = readFileSync(out, "utf8")
      .split("\n")
      .filter((line) => line.startsWith("kind:")).length;
    return `${policies} policies; orders and stock go on, api to web is ${code}`;
  } finally {
    copy.write(FILE, null);
  }
}

const isRefusal = ({ verdict, source, destination }: FlowRecord): boolean =>
  verdict === "denied" && source.identity === "spiffe://cluster.local/ns/shop/sa/api" && destination.workload === "web";

async function holds(run: string): Promise<boolean> {
  const { about, mesh } = await nodeState({ run });
  return about.inForce && mesh.resources.has(`authorization/shop/${NOTHING_ELSE}`);
}
