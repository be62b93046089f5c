// Many pods on one node, many peers on another: how long until all are in the mesh, what certificates, descriptors, tunnels and memory come to,
// what silence costs, and what happens when more is asked for than fits.
//   node bench/scale/crowd.ts [--pods N] [--peers N] [--each N] [--quick] [--directory DIR] [-o table|json]
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startLab } from "../../src/lab/lab.ts";
import { enterSandbox } from "../../src/lab/sandbox.ts";
import { columns, digits } from "../table.ts";
import { type Accounts, documents, MOST } from "./crowd-mesh.ts";
import { type Finding, measureCrowd } from "./crowd-phases.ts";

const USAGE = 64;
const say = (line: string): void => void process.stderr.write(`${line}\n`);

const { values } = parseArgs({
  options: {
    pods: { type: "string", default: "110" },
    peers: { type: "string", default: "200" },
    each: { type: "string", default: "60" },
    quick: { type: "boolean", default: false },
    directory: { type: "string", default: ".cache/bench" },
    output: { type: "string", short: "o", default: "table" },
  },
});

function number(flag: "pods" | "peers" | "each", most: number): number {
  const value = Number(values[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  say(`crowd: --${flag} ${values[flag]}: a number from 1 to ${most}`);
  return process.exit(USAGE);
}

const size = { pods: number("pods", MOST), peers: number("peers", MOST) };
const each = number("each", size.peers);

await enterSandbox();
const mesh = mkdtempSync(join(tmpdir(), "crowd-"));
const write = (accounts: Accounts): void => writeFileSync(join(mesh, "mesh.yaml"), documents(size, accounts));
write("own");
const lab = await startLab({ mesh, progress: say });
const findings: Finding[] = [];
try {
  await measureCrowd({ lab, size, each, quick: values.quick, write, say, found: (finding) => findings.push(finding) });
} catch (error) {
  say(lab.tailLogs());
  throw error;
} finally {
  await lab.stop();
  rmSync(mesh, { recursive: true });
  mkdirSync(values.directory, { recursive: true });
  const json = `${JSON.stringify({ ...size, each, findings }, null, 1)}\n`;
  writeFileSync(join(values.directory, "crowd.json"), json);
  const table = findings.map(({ phase, what, value, unit }) => [phase, what, digits(value), unit]);
  process.stdout.write(values.output === "json" ? json : `${columns([["phase", "what", "value", "unit"], ...table])}\n`);
}
const failed = findings.filter(({ fault }) => fault !== null);
for (const { phase, what, value, fault } of failed) say(`crowd: ${phase}: ${what} is ${digits(value)}: ${fault}`);
process.exit(failed.length === 0 ? 0 : 1);
