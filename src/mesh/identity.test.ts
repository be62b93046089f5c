import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { formatIdentity, parseIdentity } from "#mesh/identity.ts";

type Case = { uri: string; reason: string | null; trust_domain?: string; namespace?: string; service_account?: string };

const { cases } = JSON.parse(readFileSync(new URL("../../proto/vectors/spiffe.json", import.meta.url), "utf8")) as { cases: Case[] };

test("the identity parser agrees with every vector", () => {
  assert.ok(cases.length > 20);
  for (const { uri, reason, trust_domain, namespace, service_account } of cases) {
    const parsed = parseIdentity(uri);
    if (typeof parsed === "string") assert.equal(parsed, reason, JSON.stringify(uri));
    else {
      assert.equal(reason, null, `${JSON.stringify(uri)} was accepted`);
      assert.deepEqual(parsed, { trustDomain: trust_domain, namespace, serviceAccount: service_account });
      assert.equal(formatIdentity(parsed), uri);
    }
  }
});
