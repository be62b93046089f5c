// `bin/cluster conformance`: the Gateway API project's own conformance suite, mesh profiles, against the running cluster.
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pack } from "../../daemonset/image/archive.ts";
import { newLayer } from "../../daemonset/image/layer.ts";
import { ensure, go, type Part, SMALL, sources } from "./build.ts";
import { cluster } from "./cluster.ts";
import { execute } from "./command.ts";
import { load } from "./load.ts";
import { enter } from "./machine/power.ts";
import { CONTROL_PLANE, type Settings } from "./settings.ts";

const MODULE = "conformance";
const PROFILES = "MESH-HTTP,MESH-GRPC";
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
/** The suite waits a minute for each route that never works: without an L7 mesh that is most of them. */
const RUN_MS = 3_600_000;

/** The suite as one program, the CRDs of its version, and its two workload images under the names that its manifests use. */
const suite: Part = {
  name: MODULE,
  inputs: () => [...sources(MODULE), readFileSync(import.meta.filename)],
  async build(out) {
    await go(MODULE, ["build", "-ldflags", SMALL, "-o", `${out}/`, "./echoadvanced", "sigs.k8s.io/gateway-api/conformance/echo-basic"]);
    await go(MODULE, ["test", "-c", "-ldflags", SMALL, "-o", join(out, "gateway-conformance"), "."]);
    const directory = async (module: string): Promise<string> => (await go(MODULE, ["list", "-m", "-f", "{{.Dir}}", module])).trim();
    const crds = globSync("config/crd/standard/gateway*.yaml", { cwd: await directory("sigs.k8s.io/gateway-api") });
    const api = await directory("sigs.k8s.io/gateway-api");
    writeFileSync(
      join(out, "crds.yaml"),
      crds
        .sort()
        .map((file) => `---\n${readFileSync(join(api, file), "utf8")}`)
        .join(""),
    );
    for (const image of await images(await directory("sigs.k8s.io/gateway-api/conformance"))) packEcho(image, out);
  },
};

async function images(module: string): Promise<string[]> {
  const files = globSync("{base,mesh,tests}/**/*.yaml", { cwd: module });
  const found = files.flatMap((file) =>
    [...readFileSync(join(module, file), "utf8").matchAll(/image: (\S+\/gateway-api\/echo-\S+)/g)].map(([, image = ""]) => image),
  );
  if (found.length === 0) throw new Error(`no manifest of ${module} names an echo image: look for what they are called now`);
  return [...new Set(found)];
}

/** echo-advanced is Istio's application; our echoadvanced has the same flags and output and stands in for it. */
function packEcho(image: string, out: string): void {
  const layer = newLayer();
  const file = join(out, `${basename(image).replace(":", "-")}.tar`);
  if (image.includes("echo-advanced")) {
    layer.file(join(out, "echoadvanced"), "/usr/local/bin/server", 0o755);
    layer.link("/usr/local/bin/client", "server");
    pack({ name: image, layers: [layer], entrypoint: ["/usr/local/bin/server"] }, file);
    return;
  }
  layer.file(join(out, "echo-basic"), "/echo-basic", 0o755);
  pack({ name: image, layers: [layer], entrypoint: ["/echo-basic"], user: "65532:65532" }, file);
}

/** Prints a line for each test and the plain total; resolves with the suite's exit code. More flags of the suite may follow. */
export async function conformance(settings: Settings, say: (text: string) => void, flags: readonly string[]): Promise<number> {
  const place = await ensure(settings, suite, say);
  const running = await cluster(settings);
  await load(
    settings,
    globSync("echo-*.tar", { cwd: place }).map((file) => join(place, file)),
  );
  await running.kubectl("apply", "--server-side", "-f", join(place, "crds.yaml"));
  const argv = [
    join(place, "gateway-conformance"),
    "-test.v",
    `-test.timeout=${RUN_MS / 60_000}m`,
    `--conformance-profiles=${PROFILES}`,
    `--supported-features=${FEATURES.join(",")}`,
    ...flags,
  ];
  say("the suite runs");
  const { code, stdout, stderr } = await execute(enter(settings, CONTROL_PLANE, argv), {
    deadlineMs: RUN_MS,
    env: { ...process.env, KUBECONFIG: settings.kubeconfig },
  });
  const log = join(settings.logs, "conformance.log");
  writeFileSync(log, stdout + stderr);
  const results = [...stdout.matchAll(/^ {4}--- (PASS|FAIL|SKIP): TestConformance\/(\S+) (\(.*)$/gm)];
  for (const [, result, name, time] of results) console.log(`${result} ${name} ${time}`);
  const count = (wanted: string): number => results.filter(([, result]) => result === wanted).length;
  console.log(`${count("PASS")} passed, ${count("FAIL")} failed, ${count("SKIP")} skipped; the whole log: ${log}`);
  if (results.length === 0) throw new Error(`the suite ran no test: see ${log}`);
  return code;
}
