// Where our native programs are: named by the environment, beside each other, or in the build tree of a checkout.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { meshError } from "#mesh/error.ts";

const VARIABLE = { "trackbed-engine": "TRACKBED_ENGINE", "trackbed-netns": "TRACKBED_NETNS", "trackbed-cni": "TRACKBED_CNI" } as const;

export type Binary = keyof typeof VARIABLE;

/** Path of the program, or E_USAGE naming every place that was looked at. */
export function findBinary(name: Binary, env: NodeJS.ProcessEnv = process.env): string {
  const named = env[VARIABLE[name]];
  if (named !== undefined && named !== "") {
    if (existsSync(named)) return named;
    throw meshError("E_USAGE", `${VARIABLE[name]} names ${named}, which does not exist`);
  }
  // The CNI plugin is static, and built for a target that is named in full.
  const target = `static/${process.arch === "arm64" ? "aarch64" : "x86_64"}-unknown-linux-gnu/release`;
  const places = [...(name === "trackbed-cni" ? [target] : []), "release", "debug"].map((profile) =>
    fileURLToPath(new URL(`../../native/target/${profile}/${name}`, import.meta.url)),
  );
  const found = places.find((place) => existsSync(place));
  if (found === undefined)
    throw meshError(
      "E_USAGE",
      `${name} was not found in ${places.join(", ")}: run "make ${name === "trackbed-cni" ? "cni" : "engine"}" or set ${VARIABLE[name]}`,
    );
  return found;
}
