// What the commands say of PostgreSQL, which speaks first in clear and then in messages of its own: recorded byte by byte, listed, proven, and explained.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, chownSync, globSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { until } from "../src/lab/until.ts";
import { address, startTestMesh, type TestMesh } from "./mesh.ts";
import { canRead, fields, follow } from "./tshark.ts";

const CLI = join(import.meta.dirname, "../src/cli/main.ts");
const FORWARD = join(import.meta.dirname, "programs/forward.ts");
const PORT = 5432;
/** PostgreSQL refuses to be root. */
const NOBODY = 65_534;
const PATIENCE_MS = 30_000;

const [bin] = globSync("/usr/lib/postgresql/*/bin").sort().reverse();
const hasUsers = readFileSync("/proc/self/uid_map", "utf8").trim().split(/\s+/)[2] === "4294967295";
const skip =
  bin === undefined ? "PostgreSQL is not installed" : !canRead() ? "tshark is not installed" : !hasUsers && "there is no second user id";

let mesh: TestMesh;
let directory: string;

before(async () => {
  if (skip !== false) return;
  mesh = await startTestMesh();
  directory = mkdtempSync(join(tmpdir(), "trackbed-postgres-"));
  chownSync(directory, NOBODY, NOBODY);
});
after(async () => {
  await mesh?.stop();
  if (directory !== undefined) rmSync(directory, { recursive: true });
});

async function program(
  argv: readonly string[],
): Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }> {
  const [file = "", ...rest] = argv;
  const child = spawn(file, rest, { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const [code] = await once(child, "close");
  return { code, stdout, stderr };
}

const runs = (): string[] => ["node-a", "node-b"].flatMap((node) => ["--run", mesh.lab.node(node).runDirectory]);
const trackbed = (...argv: string[]) => program([process.execPath, CLI, ...argv]);

async function startPostgres(): Promise<void> {
  const data = join(directory, "data");
  const asNobody = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  const made = await program([...asNobody, `${bin}/initdb`, "-D", data, "-U", "postgres", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"]);
  assert.equal(made.code, 0, made.stderr);
  appendFileSync(join(data, "pg_hba.conf"), "host all all all trust\n");
  const server = mesh.lab.pod("app/server");
  const settings = ["listen_addresses=*", "unix_socket_directories=", "fsync=off", "shared_buffers=8MB"].flatMap((one) => ["-c", one]);
  const child = server.spawn([...asNobody, `${bin}/postgres`, "-D", data, "-p", `${PORT}`, ...settings]);
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
  await until(
    "PostgreSQL listens",
    () => said.includes("ready to accept connections"),
    PATIENCE_MS,
    () => said,
  );
}

test("PostgreSQL is recorded as it was said, listed, proven to be mutual TLS, and explained", { skip }, async () => {
  await startPostgres();
  const [client, server] = [mesh.lab.pod("app/client"), mesh.lab.pod("app/server")];
  const kept = join(directory, "kept");
  mkdirSync(kept);
  const forward = client.spawn([process.execPath, FORWARD, `${PORT}`, address(server), `${PORT}`, kept]);
  let isUp = false;
  forward.stdout?.once("data", () => {
    isUp = true;
  });
  await until("the program in front of the client listens", () => isUp, PATIENCE_MS);

  const file = join(directory, "postgres.pcapng");
  const recorder = spawn(process.execPath, [CLI, "pcap", "pod/app/client", "--port", `${PORT}`, ...runs(), "-w", file], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let told = "";
  recorder.stderr.setEncoding("utf8").on("data", (text: string) => (told += text));
  await until(
    "it records",
    () => told.includes("or Ctrl-C"),
    PATIENCE_MS,
    () => told,
  );
  const psql = ["psql", "-h", "127.0.0.1", "-p", `${PORT}`, "-U", "postgres", "-At", "-c"];
  const answer = await client.run([...psql, "select concat('seen ', repeat('x', 300000))"], { timeoutMs: PATIENCE_MS });
  assert.equal(answer.trim(), `seen ${"x".repeat(300_000)}`);
  // Its end is in the record of the connection, which comes behind the last byte.
  const closed = async () => {
    const { stdout } = await trackbed("flows", `destination.port == ${PORT} && phase == closed`, ...runs(), "-o", "json");
    const lines = stdout.trim().split("\n");
    const flows = lines.map((line) => JSON.parse(line)).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
    return flows.length >= 2 ? flows : null;
  };
  const flows = await until("both ends have told of it", closed, PATIENCE_MS);
  recorder.kill("SIGINT");
  const [code] = await once(recorder, "close");
  assert.equal(code, 0, told);

  for (const { verdict, source, destination, path, tls, bytesReceived } of flows) {
    assert.deepEqual([verdict, path, tls.version], ["allowed", "tunnel", "TLSv1.3"]);
    assert.deepEqual([source.workload, destination.workload], ["client", "server"]);
    assert.ok(bytesReceived > 300_000, `${bytesReceived}`);
  }
  const queries = fields(file, "pgsql.query", ["pgsql.query"]).map((row) => row["pgsql.query"]);
  assert.deepEqual(queries, ["select concat('seen ', repeat('x', 300000))"]);
  const [stream] = fields(file, "tcp.flags.syn==1 && tcp.flags.ack==0", ["tcp.stream"]);
  const heard = follow(file, [Number(stream?.["tcp.stream"])]).get(Number(stream?.["tcp.stream"]));
  const [said] = readdirSync(kept).filter((name) => name.endsWith(".said"));
  assert.ok(heard && said, readdirSync(kept).join());
  assert.ok(heard.client.equals(readFileSync(join(kept, said))), "what the client said");
  assert.ok(heard.server.equals(readFileSync(join(kept, said.replace(".said", ".heard")))), "what it heard");

  const verified = await trackbed("verify", "app/client", "app/server", ...runs());
  assert.equal(verified.code, 0, verified.stdout + verified.stderr);
  const explained = await trackbed("explain", "pod/app/client", `${address(server)}:${PORT}`, ...runs());
  assert.equal(explained.code, 0, explained.stdout + explained.stderr);
  assert.match(explained.stdout, /tunnel/);
});
