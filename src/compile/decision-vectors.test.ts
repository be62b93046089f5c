// proto/vectors/decisions.json: documents become the Access that native/policy decides requests by.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { toBinary } from "@bufbuild/protobuf";
import { AccessSchema } from "#contract/gen/authorization_pb.ts";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import { projectDocument } from "#source/project/project.ts";
import { compileAccess } from "./access.ts";

type Case = { readonly name: string; readonly policies: readonly object[]; readonly access: string };

const FILE = new URL("../../proto/vectors/decisions.json", import.meta.url);
const vectors = JSON.parse(readFileSync(FILE, "utf8")) as { readonly comment: string; readonly cases: readonly Case[] };

function read(document: object): AuthorizationPolicy {
  const { object, standIn, problems } = projectDocument(document);
  const found = object ?? standIn;
  assert.ok(found?.kind === "AuthorizationPolicy", JSON.stringify(problems));
  return found;
}

function accessOf(documents: readonly object[]): string {
  const known = { clusterDomain: "cluster.local", provider: () => undefined, service: () => undefined };
  const applicable = { policies: documents.map(read), authentications: [] };
  return Buffer.from(toBinary(AccessSchema, compileAccess("shop/web.shop.svc.cluster.local", applicable, known))).toString("hex");
}

if (process.env["TRACKBED_RENEW"] === "1") {
  const cases = vectors.cases.map((one) => ({ ...one, access: accessOf(one.policies) }));
  writeFileSync(FILE, `${JSON.stringify({ ...vectors, cases }, null, 2)}\n`);
} else {
  assert.ok(vectors.cases.length > 20);
  for (const { name, policies, access } of vectors.cases)
    test(name, () => {
      assert.equal(accessOf(policies), access, "the Access is another: look why, then write it anew");
      assert.equal(accessOf(policies.toReversed()), access, "the order of documents decides something");
    });
}
