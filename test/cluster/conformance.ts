// `bin/cluster conformance`: the Gateway API project's own conformance suite, mesh profiles, against the running cluster.
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { kubernetes, labels, ports, product } from "#contract/tables.ts";
import { version } from "../../daemonset/image/trackbed.ts";
import { ensure } from "./build.ts";
import { type Cluster, cluster, waitFor } from "./cluster.ts";
import { execute } from "./command.ts";
import { gatewayApi, suite } from "./conformance-suite.ts";
import { load } from "./load.ts";
import { enter } from "./machine/power.ts";
import { CONTROL_PLANE, ROOT, type Settings } from "./settings.ts";

const PROFILES = "MESH-HTTP,MESH-GRPC";
/** The core of the profiles, and all that a mesh may claim beside it in this version of the suite. */
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
/** What needs no routes, and passes on a cluster without any mesh. */
const CORE = ["Mesh"];
/** The suite waits a minute for each route that never works: without waypoints that is most of them. */
const RUN_MS = 3_600_000;
/** In the mesh, and with a waypoint as soon as a test attaches a route. */
const LABELS = `${labels.mesh}=enabled,${labels.waypoint}=auto`;
/** Outlives the cluster. */
const REPORT = join(ROOT, ".cache/conformance/report.yaml");
/** Where the suite's services are. */
const NAMESPACES = ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"];
/** Control looks once a minute whether the cluster has the Gateway API by now. */
const CLASS_MS = 90_000;
/** How the report calls us, and what whoever reads it must know. */
const SUBJECT = { organization: "trackbed", project: "trackbed", url: "https://trackbed.dev", contact: "developers@trackbed.dev" };
const NOTE = `# registry.k8s.io/gateway-api/echo-advanced is Istio's application; a stand-in with the same flags and output took its place
# (test/cluster/go/conformance/echoadvanced). The suite, its manifests and echo-basic are unchanged.
`;

export type Scope = "core" | "claimed";
export type Outcome = {
  readonly code: number;
  readonly passed: readonly string[];
  readonly failed: readonly string[];
  readonly log: string;
  /** The suite's own report; null for a part of it. */
  readonly report: string | null;
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
  await installGatewayApi(running);
  if (scope === "claimed") await waypoints(running, say);
  const report = scope === "claimed" ? REPORT : null;
  mkdirSync(dirname(REPORT), { recursive: true });
  rmSync(REPORT, { force: true }); // one of an earlier run must not speak for this one
  const chosen = report === null ? [`--supported-features=${CORE.join(",")}`] : claimed(report);
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
  if (report !== null && existsSync(report)) {
    writeFileSync(report, NOTE + readFileSync(report, "utf8"));
    say(`the report: ${report}`);
  }
  return { code, passed, failed, log, report };
}

/**
 * The suite attaches a route and asks at once, ten times over: a waypoint that begins only then comes too late for its first test. So those of the
 * suite's namespaces are there before it, as an operator would have it.
 */
async function waypoints(running: Cluster, say: (text: string) => void): Promise<void> {
  const hasClass = async (): Promise<boolean> => (await running.tryKubectl("get", "gatewayclass", kubernetes.waypointClass)).code === 0;
  if ((await running.tryKubectl("-n", product.controlPlaneNamespace, "get", "deployment", kubernetes.control)).code !== 0) return;
  await waitFor("control makes the class of waypoints", hasClass, CLASS_MS);
  for (const namespace of NAMESPACES) {
    const { stdout: phase } = await running.tryKubectl("get", "namespace", namespace, "-o", "jsonpath={.status.phase}");
    if (phase === "Terminating") await running.kubectl("wait", "--for=delete", `namespace/${namespace}`, "--timeout=60s"); // of a run before
    await running.apply(
      [
        { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
        {
          apiVersion: "gateway.networking.k8s.io/v1",
          kind: "Gateway",
          metadata: { name: kubernetes.waypointAuto, namespace },
          spec: { gatewayClassName: kubernetes.waypointClass, listeners: [{ name: "mesh", port: ports.hbone, protocol: "HBONE" }] },
        },
      ]
        .map((document) => JSON.stringify(document))
        .join("\n---\n"),
    );
  }
  for (const namespace of NAMESPACES)
    await running.kubectl("-n", namespace, "wait", `gateway/${kubernetes.waypointAuto}`, "--for=condition=Programmed", "--timeout=90s");
  say(`waypoints are there: ${NAMESPACES.join(", ")}`);
}

const claimed = (report: string): string[] => [
  `--conformance-profiles=${PROFILES}`,
  `--supported-features=${FEATURES.join(",")}`,
  `--namespace-labels=${LABELS}`,
  `--report-output=${report}`,
  ...Object.entries(SUBJECT).map(([flag, value]) => `--${flag}=${value}`),
  `--version=${version()}`,
];

/** Its kinds, as a cluster that is to have waypoints has them. They stay. */
export async function installGatewayApi(running: Cluster): Promise<void> {
  const place = await ensure(running.settings, gatewayApi, () => undefined);
  await running.kubectl("apply", "--server-side", "-f", join(place, "crds.yaml"));
}

/** The suite's namespaces; without waiting they end while the next drill begins. */
export async function removeConformance(settings: Settings, wait: boolean): Promise<void> {
  const running = await cluster(settings);
  const namespaces = (await running.kubectl("get", "namespaces", "-o", "name"))
    .split("\n")
    .filter((name) => name.includes("/gateway-conformance-"));
  if (namespaces.length > 0) await running.kubectl("delete", `--wait=${wait}`, ...namespaces);
}
