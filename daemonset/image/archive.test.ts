// The packer against the system's own tar and against itself.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pack } from "./archive.ts";
import { newLayer } from "./layer.ts";

const work = mkdtempSync(join(tmpdir(), "trackbed-image-"));
after(() => rmSync(work, { recursive: true }));
const LONG = `${"deep/".repeat(40)}file`;

function image(order: "one" | "other") {
  const layer = newLayer();
  const steps = [
    () => layer.text("/etc/motd", "hello\n"),
    () => layer.text(LONG, "far down"),
    () => layer.link("/bin/long", `/${LONG}`),
    () => layer.directory("/tmp", 0o1777),
    () => layer.program("/bin/true", "/bin/true"),
  ];
  for (const step of order === "one" ? steps : steps.reverse()) step();
  return { name: "trackbed.test/thing:1", layers: [layer], entrypoint: ["/bin/true"], user: "65532" };
}

test("tar reads a layer back: long names, links, modes and contents", () => {
  const out = join(work, "image.tar");
  pack(image("one"), out);
  const unpacked = join(work, "unpacked");
  execFileSync("sh", ["-c", `mkdir -p "$0/root" && tar -C "$0" -xf "$1"`, unpacked, out]);
  const [{ Layers: layers, RepoTags: tags }] = JSON.parse(readFileSync(join(unpacked, "manifest.json"), "utf8"));
  assert.deepEqual(tags, ["trackbed.test/thing:1"]);
  execFileSync("tar", ["-C", join(unpacked, "root"), "-xpf", join(unpacked, layers[0])]);
  assert.equal(readFileSync(join(unpacked, "root", LONG), "utf8"), "far down");
  assert.equal(execFileSync("readlink", [join(unpacked, "root/bin/long")], { encoding: "utf8" }).trim(), `/${LONG}`);
  assert.equal(statSync(join(unpacked, "root/tmp")).mode & 0o7777, 0o1777);
  // Its libraries came along: nothing of this machine is needed to run it.
  if (process.getuid?.() === 0) execFileSync("chroot", [join(unpacked, "root"), "/bin/true"]);
});

test("the same content packed in another order is the same image", () => {
  const digests = (["one", "other"] as const).map((order) => pack(image(order), join(work, `${order}.tar`)));
  assert.equal(digests[0], digests[1]);
  assert.ok(readFileSync(join(work, "one.tar")).equals(readFileSync(join(work, "other.tar"))));
});

test("an archive appears whole or not at all", () => {
  const source = join(work, "growing");
  writeFileSync(source, "abc");
  const layer = newLayer();
  layer.file(source, "/growing");
  writeFileSync(source, "abcdef");
  const out = join(work, "never.tar");
  assert.throws(() => pack({ name: "trackbed.test/never:1", layers: [layer] }, out), /changed from 3 to 6 bytes/);
  assert.throws(() => statSync(out), { code: "ENOENT" });
});
