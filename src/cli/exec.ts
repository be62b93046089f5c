// `trackbed exec pod/NAME -- COMMAND`: runs a command in a pod of a running lab, as kubectl exec would in a cluster's.
import { spawn } from "node:child_process";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join, resolve } from "node:path";
import { readDocuments } from "../lab/documents.ts";
import { type RunningLab, runningLabs } from "../lab/find.ts";
import { enterPod, pauseFile } from "../lab/pods.ts";
import { daemonAway, usage } from "./outcome.ts";
import { parsePod, pickPod } from "./pod.ts";

export async function runExec(
  text: string,
  namespace: string | undefined,
  mesh: string | undefined,
  command: readonly string[],
): Promise<number> {
  const wanted = parsePod(text, namespace);
  const labs = runningLabs().filter((lab) => mesh === undefined || lab.mesh === resolve(mesh));
  if (labs.length > 1) throw usage(`several labs run here: say which with --mesh ${labs.map((lab) => lab.mesh).join(" or --mesh ")}`);
  if (labs.length === 0)
    throw daemonAway(`no lab${mesh === undefined ? "" : ` of ${mesh}`} is running on this machine: "trackbed demo" brings one up`);
  const pod = pickPod(
    wanted,
    labs
      .flatMap((lab) => readDocuments(lab.mesh).pods.map((each) => ({ ...each, lab })))
      .filter((each) => existsSync(pauseFile(each.lab.directory, each))),
  );
  const pause = Number(readFileSync(pauseFile(pod.lab.directory, pod), "utf8"));
  return run([...enterSandboxOf(pod.lab), ...enterPod(pause, pod.lab.mesh), ...command]);
}

/** From outside: the sandbox's own namespaces first, so that the pod's process id means what it meant there. */
function enterSandboxOf({ init }: RunningLab): string[] {
  if (init === null) return [];
  const user = readlinkSync(`/proc/${init}/ns/user`) === readlinkSync("/proc/self/ns/user") ? [] : ["--user", "--preserve-credentials"];
  return ["nsenter", `--target=${init}`, "--mount", "--pid", "--net", ...user, "--"];
}

function run([program = "", ...args]: readonly string[]): Promise<number> {
  const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env["PATH"] ?? ""}`, TMPDIR: join("/run", "tmp") };
  const child = spawn(program, args, { stdio: "inherit", env });
  // The terminal sends these to the command as well: we only have to outlive it.
  for (const signal of ["SIGINT", "SIGQUIT"] as const) process.on(signal, () => undefined);
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(signal === null ? (code ?? 1) : 128 + constants.signals[signal]));
  });
}
