// proto/vectors/requests.json: documents become what a waypoint is told; native/policy decides by the same bytes.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { toBinary } from "@bufbuild/protobuf";
import { AccessSchema } from "#contract/gen/authorization_pb.ts";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import { projectDocument } from "#source/project/project.ts";
import { compileAccess } from "./access.ts";

type Case = {
  readonly name: string;
  readonly documents: readonly unknown[];
  readonly access: string;
  readonly requests: readonly object[];
};

const FILE = new URL("../../proto/vectors/requests.json", import.meta.url);
const vectors = JSON.parse(readFileSync(FILE, "utf8")) as { readonly comment: string; readonly cases: readonly Case[] };
const KNOWN = { clusterDomain: "cluster.local", service: () => undefined, provider: () => undefined };

function accessOf(documents: readonly unknown[]): string {
  const policies = documents.map((document): AuthorizationPolicy => {
    const { object } = projectDocument(document);
    assert.ok(object?.kind === "AuthorizationPolicy");
    return object;
  });
  const access = compileAccess("shop/web.shop.svc.cluster.local", { policies, authentications: [] }, KNOWN);
  return Buffer.from(toBinary(AccessSchema, access)).toString("hex");
}

if (process.env["TRACKBED_RENEW"] === "1") {
  const cases = vectors.cases.map((one) => ({ ...one, access: accessOf(one.documents) }));
  writeFileSync(FILE, `${JSON.stringify({ ...vectors, cases }, null, 2)}\n`);
} else {
  for (const { name, documents, access } of vectors.cases)
    test(name, () => {
      assert.equal(accessOf(documents), access, "a waypoint is told something else: look why, then write it anew");
      assert.equal(accessOf(documents.toReversed()), access, "the order of documents decides something");
    });
}
