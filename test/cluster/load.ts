// Puts image archives on every node at once; what a node already has is skipped.
import { createReadStream } from "node:fs";
import { basename, resolve } from "node:path";
import { run } from "./command.ts";
import { enter, machinePid } from "./machine/power.ts";
import type { Settings } from "./settings.ts";

/** index.json is among the first kilobytes of what archive.ts packs. */
const HEAD_BYTES = 16 << 10;

export async function load(settings: Settings, files: readonly string[]): Promise<void> {
  const wanted = await Promise.all(files.map(async (file) => ({ file: resolve(file), line: await identity(file) })));
  await Promise.all(
    settings.nodes.map(async ({ name }) => {
      const ctr = async (...args: readonly string[]): Promise<string> =>
        run(enter(settings, name, ["ctr", "-n", "k8s.io", "images", ...args], await machinePid(settings, name)));
      const there = (await ctr("ls")).split("\n").map((line) => line.trim().split(/\s+/));
      for (const { file, line } of wanted) if (!there.some(([ref, , digest]) => `${ref} ${digest}` === line)) await ctr("import", file);
    }),
  );
}

/** "NAME DIGEST" as `ctr images ls` shows it. */
async function identity(file: string): Promise<string> {
  let head = "";
  for await (const chunk of createReadStream(file, { end: HEAD_BYTES - 1, encoding: "latin1" })) head += chunk;
  const text = /\{"schemaVersion":2,"manifests":\[[^\0]*/.exec(head)?.[0];
  if (text === undefined)
    throw new Error(`${basename(file)} is no image archive of ours: expected index.json among its first ${HEAD_BYTES} bytes`);
  const { manifests } = JSON.parse(text) as { manifests: { digest: string; annotations: Record<string, string> }[] };
  const [manifest] = manifests;
  return `${manifest?.annotations["io.containerd.image.name"]} ${manifest?.digest}`;
}
