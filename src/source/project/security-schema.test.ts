// Claims about Istio's policies: every field that their definitions declare, and so let through to control, is read, or told as not in force.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parse } from "yaml";
import { projectDocument } from "./project.ts";

type Schema = {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly enum?: readonly string[];
  readonly additionalProperties?: Schema;
};
type Fields = Record<string, unknown>;
type Step = readonly [name: string, schema: Schema];

function specOf(plural: string): Schema {
  const file = new URL(`../../../daemonset/crds/${plural}.yaml`, import.meta.url);
  const definition = parse(readFileSync(file, "utf8"), { merge: true }) as {
    spec: { versions: { schema: { openAPIV3Schema: Schema } }[] };
  };
  const spec = definition.spec.versions[0]?.schema.openAPIV3Schema.properties?.["spec"];
  assert.ok(spec !== undefined);
  return spec;
}

/** Every field that holds a value, as the way that leads to it. */
const ways = (schema: Schema, way: readonly Step[] = []): (readonly Step[])[] => {
  if (schema.items !== undefined) return ways(schema.items, way);
  return Object.entries(schema.properties ?? {}).flatMap(([name, one]) => {
    const next = [...way, [name, one] as const];
    const inside = ways(one, next);
    return inside.length > 0 ? inside : [next]; // an object of nothing says nothing
  });
};

/** What stands beside a field, for the object to be one at all. */
const BESIDE: Readonly<Record<string, Fields>> = {
  jwtRules: { issuer: "https://id.example" },
  targetRef: { kind: "Service", name: "web" },
  targetRefs: { kind: "Service", name: "web" },
  fromHeaders: { name: "x-token" },
  outputClaimToHeaders: { header: "x-claim", claim: "c" },
  when: { key: "source.ip", values: ["10.0.0.1"] },
};
const SAMPLES: Readonly<Record<string, unknown>> = {
  action: "DENY",
  jwks: '{"keys":[]}',
  jwksUri: "https://id.example/keys",
  jwks_uri: "https://id.example/keys",
  timeout: "7s",
  issuer: "https://other.example",
  kind: "ServiceEntry",
  matchLabels: { a: "b" },
  key: "destination.port",
};

function sampleOf(name: string, { type, items }: Schema): unknown {
  if (Object.hasOwn(SAMPLES, name)) return SAMPLES[name];
  if (type === "boolean") return true;
  if (type === "array") return items?.type === "string" ? ["sample"] : [{ ...BESIDE[name] }];
  return type === "object" ? { ...BESIDE[name] } : "sample";
}

function written(way: readonly Step[], base: Fields): Fields {
  const spec = structuredClone(base);
  let place = spec;
  way.forEach(([name, schema], i) => {
    if (i === way.length - 1) {
      place[name] = sampleOf(name, schema);
      return;
    }
    const inner: Fields = { ...BESIDE[name] };
    place[name] = schema.items === undefined ? inner : [inner];
    place = inner;
  });
  return spec;
}

const KINDS = [
  ["AuthorizationPolicy", "authorizationpolicies"],
  ["RequestAuthentication", "requestauthentications"],
] as const;

for (const [kind, plural] of KINDS)
  test(`every field of a ${kind} that its definition declares says something, for pods and at a waypoint`, () => {
    for (const base of [{}, { targetRefs: [{ kind: "Service", name: "web" }] }]) {
      const read = (spec: Fields) =>
        projectDocument({ apiVersion: "security.istio.io/v1", kind, metadata: { name: "p", namespace: "shop" }, spec });
      let seen = 0;
      for (const way of ways(specOf(plural))) {
        const path = way.map(([name]) => name).join(".");
        const without = way.length > 1 ? read(written(way.slice(0, -1), base)) : read(base);
        const { object, problems } = read(written(way, base));
        if (object === null) assert.ok(problems.length > 0, path);
        else assert.notDeepEqual(object, without.object, `${kind} ${path} is ignored`);
        if (object !== null) seen++;
      }
      assert.ok(seen > 12, `only ${seen} fields were read without a fault`);
    }
  });
