// The mesh's own processes in a lab: control in the underlay, a launcher with daemon and engine on each node.
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { ports } from "#contract/tables.ts";
import type { PodPlace, Role } from "./api.ts";

const root = join(import.meta.dirname, "../..");
const HTTP_DEADLINE_MS = 2000;

export const controlUrl = (ip: string): string => `https://${hostPort(ip, ports.control)}`;
export const hostPort = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);

/** Where a lab keeps the state of the mesh's processes. */
export const layout = (directory: string) => ({
  controlState: join(directory, "control"),
  tokens: join(directory, "tokens"),
  rootCertificate: join(directory, "control", "root-cert.pem"),
  token: (node: string): string => join(directory, "tokens", `${node}.token`),
  waypointToken: (namespace: string, pod: string): string => join(directory, "tokens", `${namespace}_${pod}.token`),
  run: (node: string): string => join(directory, node),
  log: (name: string): string => join(directory, "logs", `${name}.log`),
});

export function controlCommand(mesh: string, directory: string, listen: readonly string[], extra: readonly string[]): string[] {
  const { controlState, tokens } = layout(directory);
  for (const path of [controlState, tokens]) mkdirSync(path, { recursive: true, mode: 0o700 });
  const addresses = listen.flatMap((ip) => ["--listen", hostPort(ip, ports.control)]);
  const main = join(root, "src/control/main.ts");
  return [process.execPath, main, "--mesh", mesh, "--state", controlState, "--tokens", tokens, ...addresses, ...extra];
}

export function launcherCommand(node: string, mesh: string, directory: string, controlIp: string, engine: string): string[] {
  const { run, rootCertificate, token } = layout(directory);
  mkdirSync(run(node), { recursive: true, mode: 0o700 });
  const main = join(root, "src/engine/main.ts");
  const where = ["--node", node, "--mesh", mesh, "--run", run(node), "--engine", engine];
  const metrics = ["--metrics", hostPort("127.0.0.1", ports.engineMetrics)]; // of the node's own loopback
  return [
    process.execPath,
    main,
    ...where,
    ...metrics,
    "--control",
    controlUrl(controlIp),
    "--root",
    rootCertificate,
    "--token",
    token(node),
  ];
}

/** Runs in the pod's network namespace alone: the lab's files are in sight there. */
export function waypointCommand(pod: PodPlace, directory: string, controlIp: string, engine: string): string[] {
  const { rootCertificate, waypointToken } = layout(directory);
  const name = pod.name.slice(pod.namespace.length + 1);
  return [
    "nsenter",
    `--net=${pod.netns}`,
    "--",
    engine,
    "waypoint",
    "--control",
    hostPort(controlIp, ports.control),
    "--roots",
    rootCertificate,
    "--token",
    waypointToken(pod.namespace, name),
  ];
}

type Process = { readonly pid: number; readonly parent: number; readonly argv: readonly string[] };

function processes(): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "latin1");
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        if (state === "Z" || parent === undefined) return [];
        const argv = readFileSync(`/proc/${name}/cmdline`, "latin1").split("\0");
        return [{ pid: Number(name), parent: Number(parent), argv }];
      } catch {
        return []; // ended while we looked
      }
    });
}

/** Live processes of a role on the node whose run directory is given: told by argv, which all of them carry it in, or by their parent. */
export function pidsOf(role: Role, run: string): number[] {
  const all = processes();
  const ours = all.filter(({ argv }) => argv.includes(run));
  const byMain = (main: string): number[] => ours.filter(({ argv }) => argv.some((word) => word.endsWith(main))).map(({ pid }) => pid);
  if (role === "launcher") return byMain("src/engine/main.ts");
  if (role === "daemon") return byMain("src/daemon/main.ts");
  const engines = all.filter(({ argv }) => argv[0]?.endsWith("trackbed-engine") === true);
  const keepers = engines.filter(({ argv }) => argv[1] !== "worker" && argv.includes(run)).map(({ pid }) => pid);
  if (role === "engine") return keepers;
  return engines.filter(({ argv, parent }) => argv[1] === "worker" && keepers.includes(parent)).map(({ pid }) => pid);
}

/** One GET; the body when the answer is 200, an error with the status otherwise. */
export function get(
  where: { readonly socketPath: string } | { readonly host: string; readonly port: number },
  path: string,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const req = request({ ...where, path, timeout: HTTP_DEADLINE_MS }, (res) => {
      let body = "";
      res.setEncoding("utf8");
      res.on("data", (text: string) => {
        body += text;
      });
      res.once("error", reject);
      res.once("end", () =>
        res.statusCode === 200 ? resolve(body) : reject(new Error(`GET ${path}: ${res.statusCode} ${body.slice(0, 500)}`)),
      );
    });
    req.once("timeout", () => req.destroy(new Error(`GET ${path}: no answer within ${HTTP_DEADLINE_MS} ms`)));
    req.once("error", reject);
    req.end();
  });
}
