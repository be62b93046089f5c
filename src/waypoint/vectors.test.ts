// proto/vectors/routes.json: documents become the table that native/l7 reads, and each request meets the rule that the API says.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { RoutesSchema } from "#contract/gen/route_pb.ts";
import { type Request, ruleFor, tableOf } from "./specimen.ts";

type Case = {
  readonly name: string;
  readonly documents: readonly unknown[];
  readonly table: string;
  readonly requests: readonly (Request & { readonly expected: string })[];
};

const FILE = new URL("../../proto/vectors/routes.json", import.meta.url);
const vectors = JSON.parse(readFileSync(FILE, "utf8")) as { readonly comment: string; readonly cases: readonly Case[] };

const tableText = (documents: readonly unknown[]): string => Buffer.from(toBinary(RoutesSchema, tableOf(documents).routes)).toString("hex");

if (process.env["TRACKBED_RENEW"] === "1") {
  const cases = vectors.cases.map((one) => ({ ...one, table: tableText(one.documents) }));
  writeFileSync(FILE, `${JSON.stringify({ ...vectors, cases }, null, 2)}\n`);
} else {
  for (const { name, documents, table, requests } of vectors.cases)
    test(name, () => {
      assert.equal(tableText(documents), table, "the table is another: look why, then write it anew");
      assert.equal(
        tableText(documents.toReversed().sort((a) => (isService(a) ? -1 : 0))),
        table,
        "the order of documents decides something",
      );
      const routes = fromBinary(RoutesSchema, Buffer.from(table, "hex"));
      for (const { expected, ...request } of requests) assert.equal(ruleFor(routes, request), expected, JSON.stringify(request));
    });
}

const isService = (document: unknown): boolean =>
  typeof document === "object" && document !== null && "kind" in document && document.kind === "Service";
