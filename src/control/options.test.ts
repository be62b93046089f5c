import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { isMeshError } from "#mesh/error.ts";
import { parseOptions } from "./options.ts";

const required = ["--mesh", "m", "--state", "s", "--tokens", "t", "--listen", "192.0.2.1:15012"];

test("several listen addresses of both families are understood, the rest has defaults", () => {
  assert.deepEqual(parseOptions([...required, "--listen", "[2001:db8::1]:15012"]), {
    platform: { kind: "directory", mesh: "m", state: "s", tokens: "t" },
    listen: [
      { host: "192.0.2.1", port: 15012 },
      { host: "2001:db8::1", port: 15012 },
    ],
    health: { host: "127.0.0.1", port: 15014 },
    trustDomain: "cluster.local",
    clusterDomain: "cluster.local",
    rootNamespace: "trackbed-system",
    encryptSameNode: false,
    adopt: "none",
  });
});

test("on Kubernetes there are no directories, health may be asked from outside, and our own namespace governs the mesh", () => {
  const options = parseOptions(["--kubernetes", "--namespace", "mesh", "--listen", "0.0.0.0:15012", "--health", "0.0.0.0:15014"]);
  assert.deepEqual(options?.platform, { kind: "kubernetes", kubeconfig: null, namespace: "mesh", issuer: null });
  assert.deepEqual([options?.health, options?.rootNamespace], [{ host: "0.0.0.0", port: 15014 }, "mesh"]);
});

test("the CA that signs the mesh's issuer is named by kind, group and name", () => {
  const issuerOf = (text: string) => {
    const options = parseOptions(["--kubernetes", "--listen", "0.0.0.0:15012", "--issuer", text]);
    return options?.platform.kind === "kubernetes" ? options.platform.issuer : assert.fail();
  };
  assert.equal(issuerOf(""), null);
  assert.deepEqual(issuerOf("ClusterIssuer/mesh"), { kind: "ClusterIssuer", group: "cert-manager.io", name: "mesh" });
  const external = { kind: "AWSPCAIssuer", group: "awspca.cert-manager.io", name: "mesh.ca" };
  assert.deepEqual(issuerOf("AWSPCAIssuer.awspca.cert-manager.io/mesh.ca"), external);
});

test("what is wrong is named: missing, unknown, unparsable or exposed options", () => {
  const cases: [string[], RegExp][] = [
    [[], /^--mesh, --state, --tokens, --listen are missing/],
    [required.slice(2), /--mesh is missing/],
    [required.slice(0, 6), /--listen is missing/],
    [[...required, "--lisen", "x"], /--lisen/],
    [[...required, "--listen", "192.0.2.1"], /--listen 192.0.2.1 is not ADDRESS:PORT/],
    [[...required, "--listen", "2001:db8::1:15012"], /is not ADDRESS:PORT/],
    [[...required, "--listen", "192.0.2.1:70000"], /70000/],
    [[...required, "--listen", "host.example:15012"], /host.example/],
    [[...required, "--health", "192.0.2.1:15014"], /not a loopback address/],
    [[...required, "--trust-domain", "Not A Name"], /--trust-domain/],
    [[...required, "stray"], /stray/],
    [["--kubernetes"], /^--listen is missing/],
    [[...required, "--kubernetes"], /--mesh does not go with --kubernetes/],
    [[...required, "--kubeconfig", "x"], /--kubeconfig needs --kubernetes/],
    [["--kubernetes", "--listen", "0.0.0.0:1", "--namespace", "a.b"], /--namespace/],
    [["--kubernetes", "--listen", "0.0.0.0:1", "--issuer", "mesh"], /--issuer mesh is not KIND\/NAME/],
    [["--kubernetes", "--listen", "0.0.0.0:1", "--issuer", "Issuer/A b"], /--issuer Issuer\/A b is not/],
    [[...required, "--issuer", "Issuer/x"], /--issuer needs --kubernetes/],
  ];
  for (const [args, message] of cases) {
    assert.throws(
      () => parseOptions(args),
      (error) => isMeshError(error) && error.code === "E_USAGE" && message.test(error.message),
      args.join(" "),
    );
  }
});

test("the process exits 64 and names the option on a usage error, and prints help with 0", () => {
  const main = new URL("main.ts", import.meta.url).pathname;
  const run = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
  const wrong = run(...required, "--listen", "nowhere");
  assert.deepEqual([wrong.status, wrong.stdout], [64, ""]);
  assert.match(wrong.stderr, /--listen nowhere .*E_USAGE/);
  const help = run("--help");
  assert.equal(help.status, 0);
  assert.match(help.stdout, /--listen ADDRESS:PORT/);
});
