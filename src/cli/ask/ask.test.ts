// The commands that ask and propose as a script sees them: documents and records in, exit codes and files out, no mesh needed.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));
const SHOP = fileURLToPath(new URL("../../../examples/shop", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "trackbed-ask-"));
after(() => rmSync(directory, { recursive: true }));

type Ran = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

async function trackbed(...args: string[]): Promise<Ran> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, NO_COLOR: "1", TRACKBED_RUN: join(directory, "nobody") },
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  await once(child, "close");
  return { code: child.exitCode, stdout, stderr };
}

const identity = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`;
let records = 0;
const flow = (from: string, to: string, port: number, more: object = {}): string =>
  JSON.stringify({
    type: "flow",
    sequence: ++records,
    flow: {
      id: `${records}`,
      phase: "closed",
      direction: "inbound",
      verdict: "allowed",
      policy: null,
      code: null,
      reason: null,
      start: new Date().toISOString(),
      source: { address: "10.80.1.12", port: 40000, workload: from, namespace: "shop", identity: identity(from) },
      destination: { address: "10.80.2.10", port, workload: to, namespace: "shop", identity: identity(to) },
      service: null,
      podUid: "x",
      request: null,
      ...more,
    },
  });

function given(): { readonly mesh: string; readonly seen: string } {
  const mesh = mkdtempSync(join(directory, "mesh-"));
  cpSync(SHOP, mesh, { recursive: true });
  const seen = join(mesh, "seen.jsonl");
  writeFileSync(seen, [flow("shopper", "web", 8080), flow("web", "api", 8080), flow("api", "cache", 6379)].join("\n"));
  return { mesh, seen };
}

const DENY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-web, namespace: shop }
spec:
  action: DENY
  rules: [{ from: [{ source: { serviceAccounts: [web] } }] }]
`;

test("explain ends with 0 for what is allowed and 1 for what is not, and a name that nobody has is the command line's fault", async () => {
  for (const [source, destination, code] of [
    ["pod/api", "cache:6379", 0],
    ["shop/shopper", "cache:6379", 1],
    ["pod/nobody", "cache:6379", 64],
    ["pod/api", "cache", 64],
  ] as const)
    assert.equal((await trackbed("explain", source, destination, "--directory", SHOP)).code, code, `${source} ${destination}`);
});

test("simulate ends with 1 when something is newly denied or a document cannot be read, and with 0 when nothing changes", async () => {
  const { mesh, seen } = given();
  const simulate = (text: string, ...more: string[]): Promise<Ran> => {
    const file = join(directory, "change.yaml");
    writeFileSync(file, text);
    return trackbed("simulate", file, "--directory", mesh, "--flows", seen, ...more);
  };
  const denied = await simulate(DENY, "-o", "json");
  const told = JSON.parse(denied.stdout) as {
    safe: boolean;
    newlyDenied: { edge: { source: { identity: string } }; after: { code: string } }[];
  };
  assert.deepEqual([denied.code, told.safe], [1, false]);
  assert.deepEqual(
    told.newlyDenied.map(({ edge, after }) => [edge.source.identity, after.code]),
    [[identity("web"), "E_POLICY_DENIED"]],
  );
  const harmless = await simulate(DENY.replace("[web]", "[stranger]"));
  assert.deepEqual([harmless.code, /nothing changes for what was seen/.test(harmless.stdout)], [0, true], harmless.stdout);
  const unread = await simulate(DENY.replace("rules:", "rulez:"));
  assert.equal(unread.code, 1);
  assert.match(unread.stdout, /change\.yaml:6: .*rulez/);
  const gone = await trackbed("simulate", "--remove", "AuthorizationPolicy/shop/cache-from-api", "--directory", mesh, "--flows", seen);
  assert.equal(gone.code, 0, gone.stdout);
  for (const words of [["simulate"], ["simulate", "--remove", "Pod/shop/web"], ["simulate", "x.yaml", "--since", "5m"]])
    assert.equal((await trackbed(...words, "--directory", mesh, "--flows", seen)).code, 64, words.join(" "));
});

/** A daemon that tells one record once somebody follows. */
async function daemonThatSays(line: string): Promise<string> {
  const run = mkdtempSync(join(directory, "run-"));
  const server = createServer((_, response) => {
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    response.write(`${line}\n`);
  }).listen(join(run, "admin.sock"));
  await once(server, "listening");
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  return run;
}

test("enforce takes the dry run out of the file, and puts it back when an edge that was seen is denied", async () => {
  const refusal = { verdict: "denied", policy: "shop/least-api", code: "E_POLICY_NO_ALLOW", reason: "admits others" };
  for (const [line, code, dryRun] of [
    [flow("web", "api", 8080, refusal), 1, "true"],
    // Nobody who was seen before, or not for want of an ALLOW: that is what policies are for.
    [flow("stranger", "api", 8080, refusal), 0, "false"],
    [flow("web", "api", 8080, { ...refusal, code: "E_POLICY_DENIED" }), 0, "false"],
  ] as const) {
    const { mesh, seen } = given();
    const file = join(mesh, "least.yaml");
    const made = await trackbed("generate", "policy", "shop", "--directory", mesh, "--flows", seen, "--out", file);
    assert.deepEqual([made.code, made.stderr], [0, ""]);
    const before = readFileSync(file, "utf8");
    assert.match(before, /istio\.io\/dry-run: "true"/);
    const words = ["--enforce", file, "--watch", "1s", "--run", await daemonThatSays(line)];
    const ran = await trackbed("generate", "policy", "shop", "--directory", mesh, "--flows", seen, ...words);
    assert.equal(ran.code, code, `${ran.stdout}${ran.stderr}`);
    const now = readFileSync(file, "utf8");
    assert.equal(now, before.replaceAll('dry-run: "true"', `dry-run: "${dryRun}"`), "nothing but the annotation changes");
  }
});
