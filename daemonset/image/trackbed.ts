// What Trackbed's image holds: one image for control, daemon, engine and CLI, because they share Node and libraries and a node then has them once.
import { existsSync, globSync, readFileSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Image } from "./archive.ts";
import { APP, bundle } from "./bundle.ts";
import { type Layer, newLayer } from "./layer.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const TARGET = join(ROOT, "native/target");
/** The daemon runs these in pods' and the host's namespaces; unshare makes the one in which a node is checked. */
export const TOOLS = ["/usr/sbin/nft", "/usr/bin/nsenter", "/usr/bin/unshare", "/sbin/ip", "/usr/bin/ss", "/usr/bin/grep", "/sbin/sysctl"];
/** One program by four names, and its matches and targets: for kernels without nftables, whose old tables only it can write. */
export const IPTABLES = "/usr/sbin/xtables-legacy-multi";
const IPTABLES_NAMES = ["iptables", "ip6tables"].flatMap((program) => [`${program}-legacy-save`, `${program}-legacy-restore`]);
export const NATIVE = ["trackbed-engine", "trackbed-netns", "trackbed-cni"];
/** Bundle in /app ← the process's sources. */
const BUNDLES = { "control.js": "src/control/main.ts", "daemon.js": "src/daemon/main.ts", "trackbed.js": "src/cli/main.ts" };

export const ENVIRONMENT = {
  TRACKBED_ENGINE: "/usr/local/bin/trackbed-engine",
  TRACKBED_NETNS: "/usr/local/bin/trackbed-netns",
  TRACKBED_CNI: "/usr/local/bin/trackbed-cni",
  NODE_ENV: "production",
};
export const COMMAND = ["trackbed", "version"];

/** A debug build is what `cargo build` makes: quicker to have while the engine is worked on. */
export type Profile = "release" | "debug";

export const version = (): string => (JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string }).version;
export const imageName = (registry = "docker.io/trackbed"): string => `${registry}/trackbed:${version()}`;

export async function trackbedImage(name = imageName(), profile: Profile = "release"): Promise<Image> {
  const base = newLayer(); // Node and Debian's tools: 140 MB that no commit of ours changes
  base.directory("/tmp", 0o1777);
  base.text("/etc/passwd", "root:x:0:0:root:/:/usr/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/usr/sbin/nologin\n");
  base.text("/etc/group", "root:x:0:\nnonroot:x:65532:\n");
  // By it nft writes "tcp" and not 6; rules that are read back have to be those that were written.
  base.text("/etc/protocols", "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n");
  base.program(realpathSync(process.execPath), "/usr/local/bin/node");
  for (const tool of TOOLS) base.program(realpathSync(existing(tool, "make setup")), tool.replace(/^\/sbin/, "/usr/sbin"));
  base.program(existing(IPTABLES, "make setup"), IPTABLES);
  for (const name of IPTABLES_NAMES) base.link(`/usr/sbin/${name}`, "xtables-legacy-multi");
  const [modules] = globSync("/usr/lib/*/xtables");
  base.tree(existing(modules ?? "/usr/lib/xtables", "make setup"), modules ?? "");

  const native = newLayer();
  for (const program of NATIVE) native.program(existing(nativePath(program, profile), "make engine cni"), `/usr/local/bin/${program}`);

  return { name, layers: [base, native, await appLayer()], environment: ENVIRONMENT, workdir: APP, command: COMMAND };
}

/** What our TypeScript becomes: three bundles, and the manifests that the command line renders from. */
export async function appLayer(): Promise<Layer> {
  const app = newLayer();
  app.file(join(ROOT, "package.json"), `${APP}/package.json`);
  app.file(join(ROOT, "LICENSE"), `${APP}/LICENSE`);
  for (const [file, entry] of Object.entries(BUNDLES)) app.text(`${APP}/${file}`, await bundle(entry));
  app.tree(join(ROOT, "daemonset"), `${APP}/daemonset`, (path) => /\.(yaml|json)$/.test(path));
  app.text("/usr/local/bin/trackbed", `#!/usr/local/bin/node\nimport "${APP}/trackbed.js";\n`, 0o755);
  return app;
}

/** The CNI plugin is static, built for a target named in full. */
function nativePath(program: string, profile: Profile): string {
  const [found] = globSync([`static/*/release/${program}`, `${profile}/${program}`], { cwd: TARGET });
  return join(TARGET, found ?? `${profile}/${program}`);
}

function existing(path: string, remedy: string): string {
  if (!existsSync(path)) throw new Error(`${path} is missing: run "${remedy}" first`);
  return path;
}
