// Claims about routes as they are read: nothing of the API's schema is ignored, what is wrong is told where it stands.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Gateway } from "#mesh/gateway.ts";
import type { Route } from "#mesh/route.ts";
import { parseDuration } from "../duration.ts";
import { formatPath } from "../problem.ts";
import { projectDocument } from "../project.ts";

type Fields = Record<string, unknown>;

const document = (kind: string, spec: Fields, meta: Fields = {}): Fields => ({
  apiVersion: "gateway.networking.k8s.io/v1",
  kind,
  metadata: { name: "r", ...(kind === "GatewayClass" ? {} : { namespace: "shop" }), generation: 3, ...meta },
  spec,
});

const SERVICE = { group: "", kind: "Service", name: "web" };
const http = (rule: Fields): Fields => document("HTTPRoute", { parentRefs: [SERVICE], rules: [rule] });

function readRoute(raw: unknown): Route {
  const { object, problems } = projectDocument(raw);
  assert.deepEqual(problems, []);
  assert.ok(object !== null && "parents" in object);
  return object;
}

const problemsOf = (raw: unknown): string[] => projectDocument(raw).problems.map(({ path }) => formatPath(path));
const unsupportedOf = (raw: unknown): string[] => readRoute(raw).unsupported.map(({ field }) => field);

/** A document of each kind in which any field may be put. */
const BASES: Readonly<Record<string, Fields>> = {
  GatewayClass: { controllerName: "c" },
  Gateway: { gatewayClassName: "c", listeners: [{ name: "l", port: 15008, protocol: "HBONE" }] },
  HTTPRoute: { parentRefs: [{ name: "p" }], rules: [{}] },
  GRPCRoute: { parentRefs: [{ name: "p" }], rules: [{}] },
  TLSRoute: { parentRefs: [{ name: "p" }], rules: [{ backendRefs: [{ name: "b" }] }] },
  TCPRoute: { parentRefs: [{ name: "p" }], rules: [{ backendRefs: [{ name: "b" }] }] },
};

/** Siblings without which the API would refuse a field, by the end of the path of the object that holds it. */
const SIBLINGS: readonly (readonly [RegExp, Fields])[] = [
  [/backendRefs?(?:\[\])?$/, { name: "b" }],
  [/parentRefs\[\]$/, { name: "p" }],
  [/(?:parametersRef)$/, { group: "g", kind: "k", name: "n" }],
  [/requestMirror$/, { backendRef: { name: "b" } }],
  [/fraction$/, { numerator: 1 }],
  [/(?:headers|queryParams|add|set)\[\]$/, { name: "n", value: "v" }],
  [/listeners\[\]$/, { name: "l", port: 15008, protocol: "HBONE" }],
  [/\.matches\[\]\.method$/, { service: "s" }],
];
const TYPES: Readonly<Record<string, string>> = {
  requestHeaderModifier: "RequestHeaderModifier",
  responseHeaderModifier: "ResponseHeaderModifier",
  requestMirror: "RequestMirror",
  requestRedirect: "RequestRedirect",
  urlRewrite: "URLRewrite",
  cors: "CORS",
  extensionRef: "ExtensionRef",
  externalAuth: "ExternalAuth",
};
const CHANGES: Readonly<Record<string, string>> = { replaceFullPath: "ReplaceFullPath", replacePrefixMatch: "ReplacePrefixMatch" };

const DEFAULTS: ReadonlySet<string> = new Set(["Same", "PathPrefix", "Exact", "302"]);

/** What a field is set to: never its default. */
function sampleOf(path: string, type: string, values: readonly string[]): unknown {
  const last = values.findLast((value) => !DEFAULTS.has(value));
  const name = path.slice(path.lastIndexOf(".") + 1);
  if (type === "boolean") return true;
  if (type === "integer") return last === undefined ? (name === "weight" ? 7 : 42) : Number(last);
  if (type === "object" || path.endsWith("{}")) return { k: "v" };
  if (last !== undefined) return last;
  if (/timeouts|backoff|Timeout/.test(path)) return "7s";
  if (/allowOrigins/.test(path)) return "https://a.example";
  if (/path\.value$|FullPath|PrefixMatch$/.test(path)) return "/sample";
  return "sample";
}

/** The base of the kind with one field of the schema in it, and as much beside it as the field needs. */
function withField(kind: string, path: string, sample: unknown): Fields {
  const spec = structuredClone(BASES[kind] ?? {});
  let place = spec;
  const parts = path.replace(/\{\}$/, "").split(".").slice(1);
  parts.forEach((part, i) => {
    const name = part.replace(/\[\]$/, "");
    const at = `spec.${parts.slice(0, i + 1).join(".")}`;
    const inside = `spec.${parts.slice(0, i).join(".")}`;
    if (/filters\[\]$/.test(inside) && TYPES[name] !== undefined) place["type"] = TYPES[name];
    if (CHANGES[name] !== undefined) place["type"] = CHANGES[name];
    if (i === parts.length - 1) {
      place[name] = part.endsWith("[]") ? [sample] : sample;
      return;
    }
    const siblings = SIBLINGS.find(([pattern]) => pattern.test(at))?.[1] ?? {};
    if (part.endsWith("[]")) {
      const [first = siblings] = (place[name] as Fields[] | undefined) ?? [];
      const item: Fields = { ...structuredClone(siblings), ...first };
      place[name] = [item];
      place = item;
    } else {
      const next: Fields = { ...structuredClone(siblings), ...((place[name] as Fields | undefined) ?? {}) };
      place[name] = next;
      place = next;
    }
  });
  return document(kind, spec);
}

/** Said for people, or of no meaning where there is no Gateway. */
const SILENT: ReadonlySet<string> = new Set(["GatewayClass spec.description"]);

test("every field of the API's schema is read, or its document says that it is not in force", () => {
  const lines = readFileSync(join(import.meta.dirname, "fields.txt"), "utf8").split("\n");
  let read = 0;
  for (const line of lines) {
    const [kind = "", path = "", type = "", ...values] = line.split(" ");
    if (line === "" || line.startsWith("#") || SILENT.has(`${kind} ${path}`)) continue;
    const base = projectDocument(document(kind, BASES[kind] ?? {}));
    assert.deepEqual(base.problems, [], kind);
    const { object, problems } = projectDocument(withField(kind, path, sampleOf(path, type, values)));
    const unsupported = object !== null && "unsupported" in object ? object.unsupported : [];
    const told = [...problems.map((one) => formatPath(one.path)), ...unsupported.map(({ field }) => field)];
    assert.notDeepEqual([object, told], [base.object, []], `${line}: is ignored`);
    if (told.length === 0) read++;
  }
  assert.ok(read > 130, `only ${read} fields were read without a fault`);
});

test("a field that nobody knows is remembered with its place, and the rest is read", () => {
  const raw = http({
    matches: [{ path: { value: "/a" }, cookies: ["x"] }],
    tomorrow: 1,
    backendRefs: [{ name: "b", port: 80, shape: "round" }],
  });
  const route = readRoute(raw);
  assert.deepEqual(unsupportedOf(raw).sort(), [
    "spec.rules[0].backendRefs[0].shape",
    "spec.rules[0].matches[0].cookies",
    "spec.rules[0].tomorrow",
  ]);
  assert.equal(route.kind === "HTTPRoute" && route.rules[0]?.matches[0]?.path.value, "/a");
});

test("values that this version does not know are remembered, also where an API server would have refused them", () => {
  const cases: [Fields, string][] = [
    [{ matches: [{ path: { type: "Glob", value: "/*" } }] }, "spec.rules[0].matches[0].path.type"],
    [{ matches: [{ method: "BREW" }] }, "spec.rules[0].matches[0].method"],
    [{ matches: [{ headers: [{ name: "a", type: "Suffix", value: "b" }] }] }, "spec.rules[0].matches[0].headers[0].type"],
    [{ matches: [{ path: { type: "RegularExpression", value: "(?=a)" } }] }, "spec.rules[0].matches[0].path.value"],
    [{ filters: [{ type: "ExtensionRef", extensionRef: { group: "g", kind: "K", name: "n" } }] }, "spec.rules[0].filters[0].extensionRef"],
    [{ filters: [{ type: "RequestRedirect", requestRedirect: { scheme: "gopher" } }] }, "spec.rules[0].filters[0].requestRedirect.scheme"],
    [
      { filters: [{ type: "RequestRedirect", requestRedirect: { statusCode: 305 } }] },
      "spec.rules[0].filters[0].requestRedirect.statusCode",
    ],
    [
      { backendRefs: [{ name: "b", port: 80, filters: [{ type: "RequestRedirect", requestRedirect: {} }] }] },
      "spec.rules[0].backendRefs[0].filters[0]",
    ],
  ];
  for (const [rule, field] of cases) assert.ok(unsupportedOf(http(rule)).includes(field), field);
});

test("what the API's own rules refuse is refused where no API server looks", () => {
  const prefix = { type: "ReplacePrefixMatch", replacePrefixMatch: "/x" };
  const cases: [Fields, string][] = [
    [{ matches: [{ path: { value: "a" } }] }, "spec.rules[0].matches[0].path.value"],
    [{ matches: [{ path: { value: "/a/../b" } }] }, "spec.rules[0].matches[0].path.value"],
    [{ matches: [{ path: { value: "/a%2Fb" } }] }, "spec.rules[0].matches[0].path.value"],
    [{ timeouts: { request: "1s", backendRequest: "2s" } }, "spec.rules[0].timeouts.backendRequest"],
    [{ timeouts: { request: "1d" } }, "spec.rules[0].timeouts.request"],
    [{ filters: [{ type: "URLRewrite", urlRewrite: { path: prefix } }], matches: [{}, {}] }, "spec.rules[0].matches"],
    [{ filters: [{ type: "RequestRedirect", requestRedirect: {} }], backendRefs: [{ name: "b", port: 1 }] }, "spec.rules[0].backendRefs"],
    [
      {
        filters: [
          { type: "CORS", cors: {} },
          { type: "CORS", cors: {} },
        ],
      },
      "spec.rules[0].filters",
    ],
    [
      {
        filters: [
          { type: "RequestRedirect", requestRedirect: {} },
          { type: "URLRewrite", urlRewrite: {} },
        ],
      },
      "spec.rules[0].filters",
    ],
    [{ filters: [{ type: "URLRewrite" }] }, "spec.rules[0].filters[0]"],
    [{ filters: [{ type: "URLRewrite", urlRewrite: {}, cors: {} }] }, "spec.rules[0].filters[0].cors"],
    [
      { filters: [{ type: "RequestMirror", requestMirror: { backendRef: { name: "b" }, percent: 101 } }] },
      "spec.rules[0].filters[0].requestMirror.percent",
    ],
    [
      { filters: [{ type: "RequestHeaderModifier", requestHeaderModifier: { set: [{ name: "a", value: "b\r\nc" }] } }] },
      "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
    ],
  ];
  for (const [rule, field] of cases) assert.deepEqual(problemsOf(http(rule)), [field], field);
  assert.deepEqual(problemsOf(document("HTTPRoute", { rules: [{ name: "a" }, { name: "a" }] })), ["spec.rules"]);
  assert.deepEqual(problemsOf(document("TCPRoute", { rules: [{}] })), ["spec.rules[0].backendRefs"]);
});

test("a route that is not valid stands for nothing but its own status", () => {
  const { object, standIn } = projectDocument(http({ matches: [{ path: { value: "a" } }] }));
  assert.equal(object, null);
  assert.ok(standIn !== null && "parents" in standIn);
  assert.deepEqual(
    [standIn.rules, standIn.generation, standIn.parents.map(({ name }) => name), standIn.unsupported.map(({ field }) => field)],
    [[], 3, ["web"], ["spec.rules[0].matches[0].path.value"]],
  );
});

test("a directory's routes have the defaults that an API server fills in", () => {
  const route = readRoute(document("HTTPRoute", { parentRefs: [{ name: "gate" }, { ...SERVICE, namespace: "other", port: 80 }] }));
  assert.deepEqual(
    route.parents.map(({ group, kind, namespace, port }) => [group, kind, namespace, port]),
    [
      ["gateway.networking.k8s.io", "Gateway", "shop", null],
      ["", "Service", "other", 80],
    ],
  );
  assert.deepEqual(route.parents[1]?.written, { group: "", kind: "Service", namespace: "other", name: "web", port: 80 });
  assert.deepEqual(route.kind === "HTTPRoute" && route.rules.map(({ matches }) => matches), [
    [{ path: { type: "PathPrefix", value: "/" }, method: "", headers: [], query: [] }],
  ]);
});

test("durations are those of GEP-2257", () => {
  const valid: [string, number][] = [
    ["0h", 0],
    ["10s", 10_000],
    ["500ms", 500],
    ["2h30m", 9_000_000],
    ["7230s", 7_230_000],
    ["10s30m1h", 5_410_000],
    ["100ms200ms300ms", 600],
    ["00060m", 3_600_000],
  ];
  for (const [text, milliseconds] of valid) assert.equal(parseDuration(text), milliseconds, text);
  for (const text of ["1", "1m1", "1d", "", "1h30m10s20ms50h", "999999h", "1.5h", "-15m", "1 s"])
    assert.equal(parseDuration(text), null, text);
});

test("a Gateway keeps whom it admits and whether it was ready once, and remembers what a waypoint has no use for", () => {
  const raw = {
    ...document("Gateway", {
      gatewayClassName: "trackbed-waypoint",
      listeners: [
        {
          name: "mesh",
          port: 15008,
          protocol: "HBONE",
          allowedRoutes: { namespaces: { from: "Selector", selector: { matchLabels: { a: "b" } } } },
        },
      ],
      addresses: [{ value: "192.0.2.1" }],
    }),
    status: { conditions: [{ type: "Programmed", status: "True", reason: "x" }] },
  };
  const gateway = projectDocument(raw).object as Gateway;
  assert.deepEqual(gateway.listeners, [{ name: "mesh", port: 15008, protocol: "HBONE", from: "Selector", selector: { a: "b" } }]);
  assert.deepEqual([gateway.programmed, gateway.generation, gateway.unsupported.map(({ field }) => field)], [true, 3, ["spec.addresses"]]);
});
