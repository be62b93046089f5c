// The Gateway API's own conformance suite with its namespaces in the mesh and a waypoint where a test attaches a route: every mesh test of it passes, those
// that its report counts and those that it does not, by tunnel; and the report says so.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { parse } from "yaml";
import { kubernetes } from "#contract/tables.ts";
import { cluster, type List, waitFor } from "../cluster.ts";
import { conformance, removeConformance } from "../conformance.ts";
import { flowsOn } from "../daemon.ts";
import { readSettings } from "../settings.ts";
import { capture } from "../shop.ts";

const settings = readSettings();
const NAMESPACE = "gateway-conformance-mesh";

after(() => removeConformance(settings, false));

/** Every mesh test of the suite: one that a newer suite adds is not passed by silence. */
const TESTS = [
  "MeshBasic",
  "MeshConsumerRoute",
  "MeshFrontend",
  "MeshFrontendHostname",
  "MeshGRPCRouteWeight",
  "MeshHTTPRoute303Redirect",
  "MeshHTTPRoute307Redirect",
  "MeshHTTPRoute308Redirect",
  "MeshHTTPRouteBackendRequestHeaderModifier",
  "MeshHTTPRouteMatching",
  "MeshHTTPRouteNamedRule",
  "MeshHTTPRouteQueryParamMatching",
  "MeshHTTPRouteRedirectHostAndStatus",
  "MeshHTTPRouteRedirectPath",
  "MeshHTTPRouteRedirectPort",
  "MeshHTTPRouteRequestHeaderModifier",
  "MeshHTTPRouteRewritePath",
  "MeshHTTPRouteSchemeRedirect",
  "MeshHTTPRouteSimpleSameNamespace",
  "MeshHTTPRouteWeight",
  "MeshPorts",
  "MeshTrafficSplit",
];

type Report = {
  readonly succeededProvisionalTests?: readonly string[];
  readonly profiles: readonly {
    readonly name: string;
    readonly core: Result;
    readonly extended?: Result & { readonly unsupportedFeatures?: readonly string[] };
  }[];
};
type Result = { readonly result: string; readonly statistics: { readonly Failed: number; readonly Skipped: number } };

test("every mesh test of the suite passes, and the suite's pods were in the mesh", async (t) => {
  const c = await cluster(settings);
  const { code, passed, failed, log, report } = await conformance(settings, (text) => t.diagnostic(text), "claimed", [
    "--cleanup-base-resources=false",
  ]);
  assert.deepEqual(failed, [], log);
  assert.equal(code, 0, log);
  assert.deepEqual([...passed].sort(), TESTS);
  const { profiles } = parse(readFileSync(report ?? "", "utf8")) as Report;
  assert.deepEqual(profiles.map(({ name }) => name).sort(), ["MESH-GRPC", "MESH-HTTP"]);
  for (const { name, core, extended } of profiles)
    for (const each of [core, ...(extended === undefined ? [] : [extended])])
      assert.deepEqual([each.result, each.statistics.Failed, each.statistics.Skipped], ["success", 0, 0], name);
  await waitFor("the suite's pods are in the mesh", async () => {
    const { items } = await c.get<List>("pods", "-n", NAMESPACE, "-l", `!${kubernetes.gatewayNameLabel}`); // waypoints are never captured
    return items.length > 0 && items.every((pod) => capture(pod)?.status === "True");
  });
  await waitFor("the suite's requests are told of, none of them in clear", async () => {
    const flows = (await Promise.all(c.nodes.map((node) => flowsOn(c, node)))).flat();
    const its = flows.filter(({ direction, destination }) => direction === "outbound" && destination.namespace === NAMESPACE);
    assert.ok(
      its.every(({ path }) => path !== "plain"),
      JSON.stringify(its),
    );
    return its.some(({ verdict }) => verdict === "allowed");
  });
});
