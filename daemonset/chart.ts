// Makes the Helm chart: node daemonset/chart.ts DIRECTORY
import { readFileSync } from "node:fs";
import { chart } from "../src/install/chart.ts";
import { writeChart } from "../src/install/chart-directory.ts";
import { baseFiles, crdFiles } from "../src/install/files.ts";

const [directory] = process.argv.slice(2);
if (directory === undefined) {
  console.error("usage: node daemonset/chart.ts DIRECTORY");
  process.exit(64);
}
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string };
writeChart(directory, chart(baseFiles(), crdFiles(), version));
console.log(`chart ${version} in ${directory}`);
