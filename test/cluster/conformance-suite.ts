// Makes of the Gateway API's modules: its kinds, and its conformance suite as one program with the images of its workload.
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pack } from "../../daemonset/image/archive.ts";
import { newLayer } from "../../daemonset/image/layer.ts";
import { go, type Part, SMALL, sources } from "./build.ts";

const MODULE = "conformance";

/** The kinds of the Gateway API, of the suite's version: all that drills of waypoints need. */
export const gatewayApi: Part = {
  name: "gateway-api",
  inputs: () => [...sources(MODULE), readFileSync(import.meta.filename)],
  async build(out) {
    const api = (await go(MODULE, ["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"])).trim();
    const crds = globSync("config/crd/standard/gateway*.yaml", { cwd: api }).sort();
    writeFileSync(join(out, "crds.yaml"), crds.map((file) => `---\n${readFileSync(join(api, file), "utf8")}`).join(""));
  },
};

/** The suite as one program, and its two workload images under the names that its manifests use. */
export const suite: Part = {
  name: MODULE,
  inputs: () => [...sources(MODULE), readFileSync(import.meta.filename)],
  async build(out) {
    await go(MODULE, ["build", "-ldflags", SMALL, "-o", `${out}/`, "./echoadvanced", "sigs.k8s.io/gateway-api/conformance/echo-basic"]);
    await go(MODULE, ["test", "-c", "-ldflags", SMALL, "-o", join(out, "gateway-conformance"), "."]);
    const directory = async (module: string): Promise<string> => (await go(MODULE, ["list", "-m", "-f", "{{.Dir}}", module])).trim();
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
