// Writes the CustomResourceDefinitions of our own kinds: node daemonset/definitions.ts
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { definitions } from "../src/install/definition.ts";

for (const [name, text] of definitions()) {
  writeFileSync(join(import.meta.dirname, "crds", name), text);
  console.log(`daemonset/crds/${name}`);
}
