// Packs layers into one archive that both `ctr images import` (OCI layout) and `docker load` (manifest.json) take, without any registry.
import { createHash } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, openSync, readSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Content, Layer } from "./layer.ts";
import { END, header, padding } from "./tar.ts";

export type Image = {
  /** In full, with its registry and tag: docker.io/trackbed/trackbed:0.1.0. */
  readonly name: string;
  /** What rarely changes comes first: a node unpacks a layer once. */
  readonly layers: readonly Layer[];
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly user?: string;
  readonly workdir?: string;
};

type Blob = { readonly digest: string; readonly size: number; readonly from: string | Buffer };

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OCI = "application/vnd.oci.image";
const ARCHITECTURE: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };
const COPY_BYTES = 1 << 20;

/** Writes the archive as `out`, whole or not at all; the digest of its manifest says whether two images are the same. */
export function pack(image: Image, out: string): string {
  mkdirSync(dirname(out), { recursive: true });
  const work = mkdtempSync(`${out}.`);
  try {
    const layers = image.layers.map((layer, index) => layerBlob(layer, join(work, `${index}`)));
    const config = jsonBlob(configuration(image, layers));
    const described = (type: string, { digest, size }: Blob): object => ({ mediaType: `${OCI}.${type}`, digest, size });
    const manifest = jsonBlob({
      schemaVersion: 2,
      mediaType: `${OCI}.manifest.v1+json`,
      config: described("config.v1+json", config),
      layers: layers.map((layer) => described("layer.v1.tar", layer)),
    });
    const annotations = {
      "io.containerd.image.name": image.name,
      "org.opencontainers.image.ref.name": image.name.slice(image.name.lastIndexOf(":") + 1),
    };
    const index = { schemaVersion: 2, manifests: [{ ...described("manifest.v1+json", manifest), annotations }] };
    const docker = [{ Config: blobPath(config), RepoTags: [image.name], Layers: layers.map(blobPath) }];
    const blobs = new Map([...layers, config, manifest].map((blob) => [blobPath(blob), blob.from]));
    const files: [string, string | Buffer][] = [
      ["oci-layout", json({ imageLayoutVersion: "1.0.0" })],
      ["index.json", json(index)],
      ["manifest.json", json(docker)],
      ...blobs,
    ];
    writeTar(
      files.map(([path, from]) => [path, { entry: { kind: "file", mode: 0o644, size: sizeOf(from) }, from }]),
      join(work, "archive"),
    );
    renameSync(join(work, "archive"), out);
    return manifest.digest;
  } finally {
    rmSync(work, { recursive: true });
  }
}

function configuration({ entrypoint, command, environment = {}, user, workdir }: Image, layers: readonly Blob[]): object {
  const architecture = ARCHITECTURE[process.arch];
  if (architecture === undefined)
    throw new Error(`images are built for ${Object.keys(ARCHITECTURE).join(" and ")}, not for ${process.arch}`);
  return {
    architecture,
    os: "linux",
    config: {
      Env: Object.entries({ PATH, ...environment }).map(([key, value]) => `${key}=${value}`),
      ...(entrypoint === undefined ? {} : { Entrypoint: entrypoint }),
      ...(command === undefined ? {} : { Cmd: command }),
      ...(user === undefined ? {} : { User: user }),
      ...(workdir === undefined ? {} : { WorkingDir: workdir }),
    },
    rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) },
  };
}

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const blobPath = ({ digest }: Blob): string => `blobs/sha256/${digest.slice("sha256:".length)}`;
const sizeOf = (from: string | Buffer): number => (typeof from === "string" ? statSync(from).size : from.length);

function jsonBlob(value: unknown): Blob {
  const from = json(value);
  return { from, size: from.length, digest: `sha256:${createHash("sha256").update(from).digest("hex")}` };
}

function layerBlob(layer: Layer, path: string): Blob {
  const sorted = [...layer.contents].sort(([a], [b]) => (a < b ? -1 : 1)); // a directory before what is in it
  const digest = writeTar(sorted, path);
  return { from: path, digest: `sha256:${digest}`, size: statSync(path).size };
}

function writeTar(contents: readonly (readonly [string, Content])[], out: string): string {
  const hash = createHash("sha256");
  const file = openSync(out, "w");
  const write = (bytes: Buffer): void => {
    hash.update(bytes);
    writeSync(file, bytes);
  };
  for (const [path, { entry, from }] of contents) {
    write(header(path, entry));
    if (entry.kind !== "file" || from === null) continue;
    const written = typeof from === "string" ? copy(from, write) : from.length;
    if (typeof from !== "string") write(from);
    if (written !== entry.size) throw new Error(`${path} changed from ${entry.size} to ${written} bytes while it was packed`);
    write(padding(entry.size));
  }
  write(END);
  closeSync(file);
  return hash.digest("hex");
}

function copy(path: string, write: (bytes: Buffer) => void): number {
  const file = openSync(path, "r");
  const buffer = Buffer.alloc(COPY_BYTES);
  let total = 0;
  for (let read = readSync(file, buffer); read > 0; read = readSync(file, buffer)) {
    write(buffer.subarray(0, read));
    total += read;
  }
  closeSync(file);
  return total;
}
