// What looking into connections costs the node of the client: CPU of its engine with nothing looked at, with the protocol alone, and with every
// request, in turns: for each connection, for each request, and for each byte of a download.
// Run as root: node bench/observe.ts
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { annotations, ports } from "#contract/tables.ts";
import type { Observation } from "#mesh/observe.ts";
import { until } from "../src/lab/until.ts";
import { address, LOAD, SERVER_PORT, startTestMesh } from "../test/mesh.ts";
import { fineCpuSeconds } from "./process.ts";

const ROUNDS = 5;
const SECONDS = 2;
/** Below what two cores carry with everything off: the load generator is on them too. */
const REQUESTS_PER_SECOND = 4000;
const HTTP = 8080;
const PAGE_BYTES = 1e9;
const COLUMNS = ["µs per connection", "µs per request", "s per GB"] as const;

const mesh = await startTestMesh();
const directory = mkdtempSync(join(tmpdir(), "trackbed-observe-"));
const documents = readFileSync(new URL("../test/mesh/mesh.yaml", import.meta.url), "utf8");
const [client, server] = [mesh.lab.pod("app/client"), mesh.lab.pod("app/server")];
const [load, page] = [`${address(server)}:${SERVER_PORT}`, `http://${address(server)}:${HTTP}/page`];
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

/** CPU seconds of the engine while `work` runs, for each of what it counts. */
async function cost(work: () => Promise<number>): Promise<number> {
  const engine = mesh.lab.node("node-a").pidsOf("worker");
  const before = fineCpuSeconds(engine);
  const count = await work();
  return (fineCpuSeconds(engine) - before) / count;
}

async function loaded(count: string, ...options: readonly string[]): Promise<number> {
  const [mode = "", ...more] = options;
  const text = await client.run([LOAD, mode, load, "--seconds", `${SECONDS}`, ...more], { timeoutMs: 60_000 });
  const counted = (JSON.parse(text) as Record<string, unknown>)[count];
  if (typeof counted !== "number" || counted === 0) throw new Error(`no ${count} in ${text}`);
  return counted;
}

/** Requests that the engine has counted. */
async function observed(): Promise<number> {
  const text = await mesh.lab.node("node-a").run(["curl", "-sS", `http://127.0.0.1:${ports.engineMetrics}/metrics`]);
  const samples = text.split("\n").filter((line) => line.startsWith("trackbed_observed_requests_total{"));
  return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Settings are for connections that begin once they are in force. */
async function observe(how: Observation): Promise<void> {
  mesh.document(
    "mesh.yaml",
    documents.replace("{ name: app, labels", `{ name: app, annotations: { ${annotations.observe}: ${how} }, labels`),
  );
  await until(`${how} is in force`, async () => {
    const before = await observed();
    await client.run(["curl", "-sS", "-o", "/dev/null", "-r", "0-9", page]);
    return (await observed()) > before === (how === "full");
  });
}

async function download(): Promise<number> {
  await client.run(["curl", "-sS", "-o", "/dev/null", page], { timeoutMs: 60_000 });
  return PAGE_BYTES;
}

async function round(): Promise<number[]> {
  return [
    1e6 * (await cost(() => loaded("operations", "connects"))),
    1e6 * (await cost(() => loaded("operations", "http", "--rate", `${REQUESTS_PER_SECOND}`))),
    1e9 * (await cost(download)),
  ];
}

try {
  writeFileSync(join(directory, "page"), "");
  truncateSync(join(directory, "page"), PAGE_BYTES);
  writeFileSync(
    join(directory, "nginx.conf"),
    `daemon off; master_process off; user root; pid ${directory}/pid; error_log stderr crit; events {}
http { access_log off; sendfile on; server { listen ${HTTP}; location /page { alias ${directory}/page; } } }`,
  );
  server.spawn(["nginx", "-c", join(directory, "nginx.conf"), "-e", "stderr"]);
  await until("nginx answers", async () => (await client.run(["curl", "-sS", "-o", "/dev/null", "-r", "0-9", page])) === "");
  const modes: readonly Observation[] = ["off", "protocol", "full"];
  const figures = new Map<Observation, number[][]>(modes.map((how) => [how, []]));
  await round(); // the first one also makes the tunnel
  for (let i = 0; i < ROUNDS; i++)
    for (const how of modes) {
      await observe(how);
      figures.get(how)?.push(await round());
    }
  const medians = (how: Observation): number[] =>
    COLUMNS.map((_, column) => median((figures.get(how) ?? []).map((one) => one[column] ?? 0)));
  const off = medians("off");
  for (const how of modes)
    console.log(
      `${how}: ${medians(how)
        .map((value, column) => `${value.toFixed(2)} ${COLUMNS[column]} (${((value / (off[column] ?? 0) - 1) * 100).toFixed(1)} %)`)
        .join(", ")}`,
    );
} finally {
  await mesh.stop();
  rmSync(directory, { recursive: true });
}
