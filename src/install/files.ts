// Where the manifests are: in a checkout, or beside the bundle in the image and the npm package.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import type { ManifestFile } from "./render.ts";

const PLACES = ["../../daemonset/", "./daemonset/"].map((place) => fileURLToPath(new URL(place, import.meta.url)));

function directory(): string {
  const found = PLACES.find((place) => existsSync(`${place}base/kustomization.yaml`));
  if (found === undefined) throw new Error(`the manifests were not found in ${PLACES.join(", ")}`);
  return found;
}

function listed(folder: "base" | "crds"): ManifestFile[] {
  const read = (name: string): string => readFileSync(`${directory()}${folder}/${name}`, "utf8");
  const { resources } = parse(read("kustomization.yaml")) as { readonly resources: readonly string[] };
  return resources.map((name) => ({ name, text: read(name) }));
}

/** In the order in which the kustomization lists them. */
export const baseFiles = (): ManifestFile[] => listed("base");

export const crdFiles = (): ManifestFile[] => listed("crds");

export const seccompProfile = (): string => readFileSync(`${directory()}seccomp/engine.json`, "utf8");
