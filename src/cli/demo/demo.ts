// `trackbed demo`: brings the example mesh up inside a sandbox, checks what it claims, and leaves it up to play with.
import { join, relative, resolve } from "node:path";
import { canCapture } from "../../lab/capture.ts";
import { runningLabs } from "../../lab/find.ts";
import { startLab } from "../../lab/lab.ts";
import { enterSandbox } from "../../lab/sandbox.ts";
import { exit, type Format } from "../outcome.ts";
import { paint, table } from "../table.ts";
import { type Check, checks, type Demo } from "./checks.ts";
import { followFlows } from "./flowLog.ts";
import { makeWorkingCopy, type WorkingCopy } from "./workingCopy.ts";

export type DemoOptions = { readonly once: boolean; readonly mesh?: string; readonly output: Format };

const ROOT = join(import.meta.dirname, "../../..");
const DEFAULT_MESH = join(ROOT, ".cache/demo/mesh");
/** Shells' convention for "ended by Ctrl-C". */
const INTERRUPTED = 130;
const A_MINUTE_MS = 60_000;

type Result = { readonly claim: string; readonly ok: boolean; readonly detail: string; readonly seconds: number };

export async function runDemo({ once, mesh, output }: DemoOptions): Promise<number> {
  const directory = resolve(mesh ?? DEFAULT_MESH);
  if (process.getuid?.() !== 0 || !canCapture())
    throw new Error("the demo needs root: it captures on the wire, and tcpdump cannot do so for an ordinary user");
  refuseSecond(directory);
  await enterSandbox();
  let code: number = INTERRUPTED;
  // The sandbox ends with this process, and everything in it: at no moment is there anything to clean up by hand.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(code));
  const begun = performance.now();
  const say = (line: string): void => void (output === "json" ? process.stderr : process.stdout).write(`${line}\n`);
  const copy = makeWorkingCopy(directory);
  say(`${paint("Trackbed demo", "bold")}: the mesh of ${copy.directory}\n`);
  const demo = await bringUp(copy, begun, say);
  say(`\n${paint("Checks", "bold")}`);
  const results: Result[] = [];
  for (const check of checks) {
    const result = await judge(check, demo);
    results.push(result);
    say(line(result));
  }
  code = results.every(({ ok }) => ok) ? exit.ok : exit.failed;
  if (code !== exit.ok) say(`\nWhat the processes said last:\n${demo.lab.tailLogs()}`);
  report(results, begun, output);
  if (!once) await leaveUp(copy.directory, say);
  demo.flows.stop();
  await demo.lab.stop();
  return code;
}

/** Two demos in one directory would edit each other's documents. */
function refuseSecond(directory: string): void {
  const other = runningLabs().find((lab) => lab.mesh === directory);
  if (other !== undefined)
    throw new Error(`a demo of ${directory} runs already: end it with Ctrl-C, or name another directory with --mesh`);
}

async function bringUp(copy: WorkingCopy, begun: number, say: (line: string) => void): Promise<Demo> {
  const progress = (text: string): void => say(`  ${paint(`${seconds(begun).padStart(5)} s`, "dim")}  ${text}`);
  const lab = await startLab({ mesh: copy.directory, containers: false, progress });
  try {
    const wire = await lab.captureWire("node-b", "ip or ip6");
    await lab.startMesh();
    const flows = followFlows(lab.nodes);
    progress("every enrolled pod is captured, has its identity and policy, and is proven ready");
    progress("the shop's programs: nginx, Node, Redis, SMTP");
    await lab.startContainers();
    progress("the shop is open");
    return { lab, copy, flows, wire, sent: { meshed: [], plain: [] } };
  } catch (error) {
    await lab.stop();
    throw error;
  }
}

const seconds = (begun: number): string => ((performance.now() - begun) / 1000).toFixed(1);

async function judge({ claim, run }: Check, demo: Demo): Promise<Result> {
  const begun = performance.now();
  const [ok, detail] = await run(demo).then(
    (measured) => [true, measured] as const,
    (error: unknown) => [false, error instanceof Error ? error.message : String(error)] as const,
  );
  return { claim, ok, detail, seconds: Number(seconds(begun)) };
}

const mark = (ok: boolean): string => (ok ? paint("ok", "green") : paint("FAILED", "red"));

const line = ({ claim, ok, detail }: Result): string =>
  `  ${mark(ok)}  ${claim}\n      ${paint(detail.replaceAll("\n", "\n      "), "dim")}`;

function report(results: readonly Result[], begun: number, output: Format): void {
  const passed = results.filter(({ ok }) => ok).length;
  const rows = results.map(({ claim, ok, seconds }, index) => [String(index + 1), claim, mark(ok), `${seconds.toFixed(1)} s`]);
  const text = `${table(["", "CHECK", "RESULT", "TOOK"], rows)}\n\n${passed} of ${results.length} checks passed in ${seconds(begun)} s`;
  console.log(
    output === "json"
      ? JSON.stringify({ passed, failed: results.length - passed, seconds: Number(seconds(begun)), checks: results }, null, 2)
      : `\n${text}`,
  );
}

/** Until a signal ends the process. */
async function leaveUp(mesh: string, say: (line: string) => void): Promise<void> {
  const trackbed = relative(process.cwd(), join(ROOT, "bin/trackbed"));
  say(`
The mesh stays up until Ctrl-C. Try in another terminal:

  ${trackbed} status
  ${trackbed} flows --follow
  ${trackbed} explain pod/shopper
  ${trackbed} exec pod/shopper -- curl -s http://web/order?note=hello
  ${trackbed} exec pod/outsider -- curl -s http://web.shop/order
  ${trackbed} exec pod/shopper -- curl -s http://stock/

and edit the documents in ${mesh}: what you save is in force at once.
For example, take the rule out of 30-policy.yaml, label a pod trackbed.dev/mesh: disabled, or change a weight in 41-stock-route.yaml.`);
  await new Promise<never>(() => setInterval(() => undefined, A_MINUTE_MS)); // a promise alone does not keep a process alive
}
