// The routes of the Gateway API's own mesh conformance tests, from the suite's files: each is accepted, and its table answers as the suite asks.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { createCompiler } from "#compile/compiler.ts";
import { RoutesSchema } from "#contract/gen/route_pb.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/route-specimen.ts";
import { parseText } from "#source/directory/documents.ts";
import { projectDocument } from "#source/project/project.ts";
import { type Request, ruleFor } from "#waypoint/specimen.ts";
import { namespace, settings } from "./specimen.ts";

const VERSION = "v1.6.3";
const MODULE = join(
  process.env["GOMODCACHE"] ?? join(process.env["GOPATH"] ?? join(homedir(), "go"), "pkg/mod"),
  `sigs.k8s.io/gateway-api/conformance@${VERSION}`,
);
const PRODUCER = "gateway-conformance-mesh";
const CONSUMER = "gateway-conformance-mesh-consumer";
const files = globSync(join(MODULE, "tests/mesh/*.yaml")).sort();

let addresses = 0;
/** Everything in a file that the mesh reads; a server would have given the services their addresses. */
const objectsIn = (file: string): MeshObject[] =>
  parseText(readFileSync(file, "utf8")).documents.flatMap(({ value }) => {
    const document = value as { kind: string; spec?: object };
    const given = document.kind === "Service" ? { ...document, spec: { ...document.spec, clusterIP: `10.96.1.${++addresses}` } } : document;
    const { object, problems } = projectDocument(given);
    assert.deepEqual(problems, [], file);
    return object === null ? [] : [object];
  });

function compiled(file: string) {
  const compiler = createCompiler(settings);
  const spaces = [PRODUCER, CONSUMER].map((name) => namespace(name, { "trackbed.dev/use-waypoint": "gate" }));
  const gates = [PRODUCER, CONSUMER].map((name) => gatewayOf(name, "gate"));
  const found = [...objectsIn(join(MODULE, "mesh/manifests.yaml")), ...objectsIn(file)].filter(({ kind }) => kind !== "Namespace");
  compiler.apply({ reset: true, put: [...spaces, ...gates, ...found], remove: [] });
  return {
    statuses: compiler.routeStatuses(),
    rule: (service: string, request: Partial<Request>) => {
      const resource = compiler.routes().get(`${PRODUCER}/${service}.${PRODUCER}.svc.cluster.local`);
      assert.ok(resource !== undefined);
      return ruleFor(fromBinary(RoutesSchema, resource.body), { from: PRODUCER, port: 80, ...request });
    },
  };
}

/** What the suite's Go files ask, in as many words as it takes to tell a table that is wrong. */
const ASKED: Readonly<Record<string, readonly (readonly [string, Partial<Request>, string])[]>> = {
  "httproute-matching.yaml": [
    ["echo", { path: "/" }, "0"],
    ["echo", { path: "/example" }, "0"],
    ["echo", { path: "/", headers: [["Version", "one"]] }, "0"],
    ["echo", { path: "/v2" }, "1"],
    ["echo", { path: "/v2/example" }, "1"],
    ["echo", { path: "/", headers: [["Version", "two"]] }, "1"],
    ["echo", { path: "/v2/" }, "1"],
    ["echo", { path: "/v2example" }, "0"],
    ["echo", { path: "/foo/v2/example" }, "0"],
  ],
  "httproute-query-param-matching.yaml": [
    ["echo", { path: "/?animal=whale" }, "0"],
    ["echo", { path: "/?animal=dolphin" }, "1"],
    ["echo", { path: "/?animal=whale&otherparam=irrelevant" }, "0"],
    ["echo", { path: "/path1?animal=whale" }, "2"],
    ["echo", { path: "/?animal=whale", headers: [["version", "one"]] }, "3"],
    ["echo", { path: "/path3?animal=shark" }, "4"],
    ["echo", { path: "/path4?animal=kraken", headers: [["version", "three"]] }, "4"],
    ["echo", { path: "/?color=blue" }, "refused"],
    ["echo", { path: "/?animal=dog" }, "refused"],
    ["echo", { path: "/" }, "refused"],
  ],
  "mesh-consumer-route.yaml": [
    ["echo-v1", { from: PRODUCER }, "own"],
    ["echo-v1", { from: CONSUMER }, "0"],
  ],
  "mesh-ports.yaml": [
    ["echo", { port: 443 }, "own"],
    ["echo-v1", { port: 80 }, "0"],
    ["echo-v1", { port: 8080 }, "own"],
  ],
};

/** The suite sends a weight of nothing there. */
const NOBODY = `there is no Service ${PRODUCER}/echo-v3`;

const absent = files.length === 0 ? `the suite's files are not in Go's module cache (${MODULE})` : false;

test("every route of the mesh conformance tests is accepted with all its references", { skip: absent }, () => {
  assert.ok(files.length >= 20, `only ${files.length} files`);
  for (const file of files) {
    const { statuses, rule } = compiled(file);
    assert.ok(statuses.length > 0, file);
    const conditions = statuses.flatMap(({ parents }) => parents.flatMap((parent) => parent.conditions));
    for (const { type, status, message } of conditions)
      if (!message.endsWith(NOBODY)) assert.equal(status, "True", `${basename(file)}: ${type}: ${message}`);
    for (const [service, request, expected] of ASKED[basename(file)] ?? [])
      assert.equal(rule(service, request).split(" ").at(-1), expected, `${basename(file)} ${service} ${JSON.stringify(request)}`);
  }
});
