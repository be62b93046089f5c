// `bin/cluster conformance`: the Gateway API project's own conformance suite, mesh profiles, against the running cluster.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ensure } from "./build.ts";
import { cluster } from "./cluster.ts";
import { execute } from "./command.ts";
import { suite } from "./conformance-suite.ts";
import { load } from "./load.ts";
import { enter } from "./machine/power.ts";
import { CONTROL_PLANE, type Settings } from "./settings.ts";

const PROFILES = "MESH-HTTP,MESH-GRPC";
/** What a mesh of our profiles may claim beside their core. */
const FEATURES = [
  "Mesh",
  "HTTPRoute",
  "GRPCRoute",
  "MeshClusterIPMatching",
  "MeshConsumerRoute",
  "MeshHTTPRouteRewritePath",
  "MeshHTTPRouteSchemeRedirect",
  "MeshHTTPRouteRedirectPort",
  "MeshHTTPRouteRedirectPath",
  "MeshHTTPRouteBackendRequestHeaderModification",
  "MeshHTTPRouteQueryParamMatching",
  "MeshHTTPRouteNamedRouteRule",
  "HTTPRouteResponseHeaderModification",
  "HTTPRouteParentRefPort",
  "HTTPRoute303RedirectStatusCode",
  "HTTPRoute307RedirectStatusCode",
  "HTTPRoute308RedirectStatusCode",
];
/** Of these, what this version serves: the tests that need nothing else are those that have to pass. */
const CLAIMED = ["Mesh"];
/** The suite waits a minute for each route that never works: without an L7 mesh that is most of them. */
const RUN_MS = 3_600_000;

export type Scope = "claimed" | "all";
export type Outcome = {
  readonly code: number;
  readonly passed: readonly string[];
  readonly failed: readonly string[];
  readonly log: string;
};

/** More flags of the suite may follow. */
export async function conformance(
  settings: Settings,
  say: (text: string) => void,
  scope: Scope,
  flags: readonly string[],
): Promise<Outcome> {
  const place = await ensure(settings, suite, say);
  const running = await cluster(settings);
  await load(
    settings,
    globSync("echo-*.tar", { cwd: place }).map((file) => join(place, file)),
  );
  await running.kubectl("apply", "--server-side", "-f", join(place, "crds.yaml"));
  const chosen =
    scope === "claimed"
      ? [`--supported-features=${CLAIMED.join(",")}`]
      : [`--conformance-profiles=${PROFILES}`, `--supported-features=${FEATURES.join(",")}`];
  const argv = [join(place, "gateway-conformance"), "-test.v", `-test.timeout=${RUN_MS / 60_000}m`, ...chosen, ...flags];
  const log = join(settings.logs, "conformance.log");
  say(`the suite runs: ${log}`);
  const { code } = await execute(enter(settings, CONTROL_PLANE, ["sh", "-c", 'exec "$@" >"$LOG" 2>&1', "sh", ...argv]), {
    deadlineMs: RUN_MS,
    env: { ...process.env, KUBECONFIG: settings.kubeconfig, LOG: log },
  });
  const results = [...readFileSync(log, "utf8").matchAll(/^ {4}--- (PASS|FAIL): TestConformance\/(\S+) (\(.*)$/gm)];
  for (const [, result, name, time] of results) say(`${result} ${name} ${time}`);
  const named = (wanted: string): string[] => results.flatMap(([, result, name = ""]) => (result === wanted ? [name] : []));
  const [passed, failed] = [named("PASS"), named("FAIL")];
  say(`${passed.length} passed, ${failed.length} failed`);
  if (results.length === 0) throw new Error(`the suite ran no test: see ${log}`);
  return { code, passed, failed, log };
}

/** The suite's namespaces, and the kinds that came with it: who looks for what a mesh left finds a cluster without them. */
export async function removeConformance(settings: Settings, say: (text: string) => void): Promise<void> {
  const running = await cluster(settings);
  const namespaces = (await running.kubectl("get", "namespaces", "-o", "name"))
    .split("\n")
    .filter((name) => name.includes("/gateway-conformance-"));
  if (namespaces.length > 0) await running.kubectl("delete", ...namespaces);
  await running.kubectl("delete", "--ignore-not-found", "-f", join(await ensure(settings, suite, say), "crds.yaml"));
}
