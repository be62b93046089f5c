// `make images`: packs Trackbed's image into .cache/images, without registry or Docker. An argument is another registry than docker.io/trackbed.
import { join, resolve } from "node:path";
import { pack } from "./archive.ts";
import { imageName, trackbedImage } from "./trackbed.ts";

const out = join(resolve(import.meta.dirname, "../.."), ".cache/images/trackbed.tar");
const name = imageName(process.argv[2]);
const digest = pack(await trackbedImage(name), out);
console.log(`${name} ${digest}\n${out}: load it with "ctr -n k8s.io images import", "docker load" or "bin/cluster load"`);
