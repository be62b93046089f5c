// `make images`: packs Trackbed's image into .cache/images, without registry or Docker. `--registry HOST/PATH` names it for another registry than
// docker.io/trackbed; `--debug` takes the engine's debug build; `--app DIR` writes only what our TypeScript becomes, for the Containerfile.
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { pack } from "./archive.ts";
import { unpack } from "./layer.ts";
import { appLayer, imageName, trackbedImage } from "./trackbed.ts";

const { values } = parseArgs({ options: { registry: { type: "string" }, app: { type: "string" }, debug: { type: "boolean" } } });
if (values.app !== undefined) unpack(await appLayer(), values.app);
else {
  const out = join(resolve(import.meta.dirname, "../.."), ".cache/images/trackbed.tar");
  const name = imageName(values.registry);
  const digest = pack(await trackbedImage(name, values.debug ? "debug" : "release"), out);
  console.log(`${name} ${digest}\n${out}: load it with "bin/cluster load", "ctr -n k8s.io images import" or "docker load"`);
}
