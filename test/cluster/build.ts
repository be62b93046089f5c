// Builds the cluster's programs from Go modules and its base images, each once for the same inputs, into a cache that all clusters share.
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { pack } from "../../daemonset/image/archive.ts";
import { newLayer } from "../../daemonset/image/layer.ts";
import { run } from "./command.ts";
import type { Settings } from "./settings.ts";

const GO = join(import.meta.dirname, "go");
/** Static programs without debug information: they go into images that have nothing else. */
const ENVIRONMENT = { CGO_ENABLED: "0", GOFLAGS: "-trimpath -buildvcs=false", GOWORK: "off" };
export const SMALL = "-s -w";
/** The whole of Kubernetes took 10 minutes of CPU; two cores that others use as well may need an hour for it. */
const BUILD_MS = 3_600_000;
/** What nobody used for so long is the build of an input that is gone. */
const KEEP_DAYS = 14;

export type Part = { readonly name: string; readonly build: (out: string) => Promise<void>; readonly inputs: () => Buffer[] };

export const sources = (module: string): Buffer[] =>
  globSync("**/*", { cwd: join(GO, module), withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((path) => readFileSync(path));

export const go = (module: string, args: readonly string[]): Promise<string> =>
  run(["nice", "-n", "5", "go", ...args], { deadlineMs: BUILD_MS, env: { ...process.env, ...ENVIRONMENT }, cwd: join(GO, module) });

/** kube: all Kubernetes programs linked once, told apart by the name they are called by. */
const KUBE_PROGRAMS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"];

const kube: Part = {
  name: "kube",
  inputs: () => sources("kube"),
  async build(out) {
    const version = (await go("kube", ["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"])).trim();
    const [major, minor] = version.replace("v", "").split(".");
    const facts = { gitVersion: version, gitMajor: major, gitMinor: minor, gitTreeState: "clean" };
    const set = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((path) =>
      Object.entries(facts).map(([key, value]) => `-X ${path}.${key}=${value}`),
    );
    await go("kube", ["build", "-ldflags", [SMALL, ...set].join(" "), "-o", join(out, "kube"), "."]);
    for (const program of KUBE_PROGRAMS) symlinkSync("kube", join(out, program));
  },
};

const plain = (module: string, packages = "."): Part => ({
  name: module,
  inputs: () => sources(module),
  build: async (out) => void (await go(module, ["build", "-ldflags", SMALL, "-o", `${out}/`, packages])),
});

/** Only for the drill that reads the chart with it. Knows which Kubernetes it is made for by the same flags as Helm's own builds. */
export const helm: Part = {
  name: "helm",
  inputs: () => sources("helm"),
  async build(out) {
    const versionOf = async (module: string): Promise<string> => (await go("helm", ["list", "-m", "-f", "{{.Version}}", module])).trim();
    const [, minor] = /^v0\.(\d+)/.exec(await versionOf("k8s.io/client-go")) ?? [];
    const set = ["pkg/lint/rules", "pkg/chartutil"].flatMap((path) => [
      `-X helm.sh/helm/v3/${path}.k8sVersionMajor=1`,
      `-X helm.sh/helm/v3/${path}.k8sVersionMinor=${minor}`,
    ]);
    const version = `-X helm.sh/helm/v3/internal/version.version=${await versionOf("helm.sh/helm/v3")}`;
    await go("helm", ["build", "-ldflags", [SMALL, version, ...set].join(" "), "-o", `${out}/`, "helm.sh/helm/v3/cmd/helm"]);
  },
};

const PROGRAMS = [kube, plain("etcd"), plain("coredns"), plain("tools", "./...")];

/** Where a part lies; the name says what it was made from. */
function place(settings: Settings, { name, inputs }: Part): string {
  const hash = createHash("sha256");
  for (const input of [Buffer.from(process.arch), ...inputs()]) hash.update(`${input.length}\n`).update(input);
  return join(settings.cache, `${name}-${hash.digest("hex").slice(0, 12)}`);
}

/** Tells the drills, by their environment, which parts were made for them: from where they run nothing can be fetched. */
export const MADE_FOR_DRILLS = "TRACKBED_CLUSTER_PARTS";

/**
 * Builds it unless it is there, and returns where. Appears whole or not at all, so two builds at once do not meet. A drill gets only what its
 * run was told to make before: a cache that happens to hold the rest must not hide that a clean machine would have nothing.
 */
export async function ensure(settings: Settings, part: Part, say: (text: string) => void): Promise<string> {
  const made = process.env[MADE_FOR_DRILLS];
  if (made !== undefined && !made.split(",").includes(part.name))
    throw new Error(`${part.name} was not made before the cluster came up (only ${made}): name it in PARTS of test/cluster/run.ts`);
  const path = place(settings, part);
  if (!existsSync(path)) {
    const began = performance.now();
    say(`building ${part.name}${part === kube ? " (Kubernetes itself: about 10 minutes of CPU, once)" : ""}`);
    const work = `${path}.${process.pid}`;
    mkdirSync(work, { recursive: true });
    try {
      await part.build(work);
      if (existsSync(path)) return path;
      renameSync(work, path);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
    say(`${part.name} built in ${Math.round((performance.now() - began) / 1000)} s`);
  }
  utimesSync(path, new Date(), new Date());
  return path;
}

/** Everything that a bare cluster runs: links to the programs in settings.bin; returns the archives of the base images. */
export async function build(settings: Settings, say: (text: string) => void): Promise<string[]> {
  const places: string[] = [];
  for (const part of PROGRAMS) places.push(await ensure(settings, part, say)); // the Go tool uses all CPUs by itself
  const images = await ensure(settings, baseImages(places), say);
  prune(settings.cache, say);
  rmSync(settings.bin, { recursive: true, force: true });
  mkdirSync(settings.bin, { recursive: true });
  for (const path of places) for (const program of readdirSync(path)) symlinkSync(join(path, program), join(settings.bin, program));
  return readdirSync(images).map((file) => join(images, file));
}

/** pause, CoreDNS, and a shell with the usual programs for workloads. */
function baseImages(places: readonly string[]): Part {
  const program = (name: string): string => {
    const path = places.map((place) => join(place, name)).find((candidate) => existsSync(candidate));
    if (path === undefined) throw new Error(`no part builds ${name}`);
    return path;
  };
  return {
    name: "images",
    inputs: () => [
      Buffer.from(places.join("\n")),
      readFileSync(BUSYBOX),
      readFileSync(import.meta.filename),
      ...PACKER.map((file) => readFileSync(join(IMAGE, file))),
    ],
    async build(out) {
      for (const name of ["pause", "coredns"]) {
        const layer = newLayer();
        layer.file(program(name), `/${name}`, 0o755);
        pack({ name: `trackbed.test/${name}:1`, layers: [layer], entrypoint: [`/${name}`] }, join(out, `${name}.tar`));
      }
      const shell = newLayer();
      shell.file(BUSYBOX, "/bin/busybox", 0o755);
      for (const applet of (await run([BUSYBOX, "--list"])).split("\n"))
        if (applet !== "" && applet !== "busybox") shell.link(`/bin/${applet}`, "busybox");
      shell.directory("/tmp", 0o1777);
      shell.text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
      pack({ name: "trackbed.test/busybox:1", layers: [shell], command: ["sh"] }, join(out, "busybox.tar"));
    },
  };
}

const BUSYBOX = "/bin/busybox";
const IMAGE = join(import.meta.dirname, "../../daemonset/image");
const PACKER = ["archive.ts", "layer.ts", "tar.ts"];

function prune(cache: string, say: (text: string) => void): void {
  const oldest = Date.now() - KEEP_DAYS * 24 * 3600 * 1000;
  for (const name of readdirSync(cache)) {
    if (statSync(join(cache, name)).mtimeMs >= oldest) continue;
    say(`removing ${name} from the cache: unused for ${KEEP_DAYS} days`);
    rmSync(join(cache, name), { recursive: true, force: true });
  }
}
