// Claims about precedence: for any routes and any request, the first match of the table is the one that the API's own words name.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Service } from "#mesh/objects.ts";
import type { HTTPRoute, HttpMatch } from "#mesh/route.ts";
import { backendOf, httpRoute, httpRule, matchOf, parentOf } from "#mesh/route-specimen.ts";
import { meta } from "#mesh/specimen.ts";
import { destinationOf, knownOf, type Request, ruleFor } from "./specimen.ts";
import { compileTable } from "./table.ts";

const web: Service = {
  kind: "Service",
  metadata: meta("shop", "web"),
  type: "ClusterIP",
  clusterIPs: ["10.96.0.1"],
  selector: {},
  ports: [{ name: "http", port: 80, targetPort: 80, protocol: "TCP", appProtocol: "" }],
  trafficDistribution: "",
  publishNotReadyAddresses: false,
};
const known = knownOf([web]);

const named = (names: readonly string[]) =>
  fc.subarray([...names]).map((some) => some.map((name) => ({ type: "Exact" as const, name, value: "1" })));
const match: fc.Arbitrary<HttpMatch> = fc
  .record({
    path: fc.record({
      type: fc.constantFrom("Exact" as const, "PathPrefix" as const),
      value: fc.constantFrom("/", "/a", "/a/", "/a/b", "/a/b/c"),
    }),
    method: fc.constantFrom("", "GET", "PUT"),
    headers: named(["x", "Y", "z"]),
    query: named(["p", "q"]),
  })
  .map(matchOf);
const route = (name: string): fc.Arbitrary<HTTPRoute> =>
  fc
    .tuple(
      fc.array(fc.array(match, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 3 }),
      fc.constantFrom("", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
    )
    .map(([rules, creationTimestamp]) =>
      httpRoute(
        "shop",
        name,
        rules.map((matches) => httpRule({ matches, backends: [backendOf("shop", "web")] })),
        {
          parents: [parentOf("shop", "web")],
          metadata: meta("shop", name, { creationTimestamp }),
        },
      ),
    );
const request: fc.Arbitrary<Request> = fc.record({
  from: fc.constant("shop"),
  port: fc.constant(80),
  method: fc.constantFrom("GET", "PUT"),
  path: fc
    .tuple(fc.constantFrom("/", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/ab"), fc.subarray(["p=1", "q=1"]))
    .map(([path, query]) => (query.length === 0 ? path : `${path}?${query.join("&")}`)),
  headers: fc.subarray(["X", "y", "z"]).map((names) => names.map((name): [string, string] => [name, "1"])),
});

type Place = { readonly route: HTTPRoute; readonly rule: number; readonly match: HttpMatch };

/** The API's words in their order: each step keeps the best of those that are left. */
function namedFirst(places: readonly Place[], { path = "/", method, headers = [] }: Request): string {
  const [plain = "", query = ""] = path.split("?");
  const segments = (text: string): string[] => text.split("/").filter((part) => part !== "");
  const fits = ({ match }: Place): boolean => {
    const wanted = match.path;
    const reaches =
      wanted.type === "Exact" ? wanted.value === plain : segments(wanted.value).every((part, i) => segments(plain)[i] === part);
    return (
      reaches &&
      (match.method === "" || match.method === method) &&
      match.headers.every(({ name }) => headers.some(([other]) => other.toLowerCase() === name.toLowerCase())) &&
      match.query.every(({ name }) => query.split("&").includes(`${name}=1`))
    );
  };
  let left = places.filter(fits);
  const keep = (value: (place: Place) => number | string, best: (a: number | string, b: number | string) => boolean): void => {
    const top = left.map(value).reduce((a, b) => (best(b, a) ? b : a), left[0] === undefined ? 0 : value(left[0]));
    left = left.filter((place) => value(place) === top);
  };
  const most = (a: number | string, b: number | string): boolean => a > b;
  const least = (a: number | string, b: number | string): boolean => a < b;
  keep(({ match }) => (match.path.type === "Exact" ? 1 : 0), most);
  keep(({ match }) => (match.path.type === "Exact" ? 0 : segments(match.path.value).join("/").length), most);
  keep(({ match }) => (match.method === "" ? 0 : 1), most);
  keep(({ match }) => match.headers.length, most);
  keep(({ match }) => match.query.length, most);
  keep(({ route }) => route.metadata.creationTimestamp || "9", least);
  keep(({ route }) => route.metadata.name, least);
  keep(({ rule }) => rule, least);
  const [first] = left;
  return first === undefined ? "refused" : `HTTPRoute shop/${first.route.metadata.name} ${first.rule}`;
}

test("the first match of the table is the one that the API's rules of precedence name, in whatever order routes are known", () => {
  fc.assert(
    fc.property(
      fc.tuple(route("a"), route("b"), route("c")),
      fc.array(request, { minLength: 1, maxLength: 8 }),
      fc.boolean(),
      (routes, requests, turned) => {
        const table = compileTable(destinationOf(web), turned ? routes.toReversed() : routes, known);
        const places = routes.flatMap((one) =>
          one.rules.flatMap(({ matches }, rule) => matches.map((match) => ({ route: one, rule, match }))),
        );
        for (const one of requests) assert.equal(ruleFor(table.routes, one), namedFirst(places, one));
      },
    ),
    { numRuns: 500 },
  );
});
