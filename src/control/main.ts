// Starts control: parse → build → spawn → drain.
import { readFileSync } from "node:fs";
import { explainError, isMeshError } from "#mesh/error.ts";
import { startControl } from "./control.ts";
import { createLog } from "./log.ts";
import { type ControlOptions, HELP, parseOptions } from "./options.ts";

const USAGE_EXIT = 64;

function parse(): ControlOptions | null {
  try {
    return parseOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${explainError(error)}\n`);
    process.exit(isMeshError(error) && error.code === "E_USAGE" ? USAGE_EXIT : 1);
  }
}

async function run(options: ControlOptions): Promise<number> {
  let dropped = 0;
  const { log, flush } = createLog(() => dropped++);
  const asked = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => asked.resolve(signal));
  try {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
    const control = await Promise.race([startControl(options, version, log), asked.promise]);
    if (typeof control === "string") return 0; // told to end before it served anything
    log.info({ addresses: control.addresses, health: control.health, platform: control.platform }, "control serves");
    const signal = await Promise.race([asked.promise, control.failed]);
    log.info({ signal }, "control drains");
    const cut = await control.drain();
    log.info({ cut, droppedLines: dropped }, "control ended");
    return 0;
  } catch (error) {
    log.fatal({ reason: explainError(error) }, "control cannot go on");
    process.stderr.write(`${explainError(error)}\n`);
    return 1;
  } finally {
    flush();
  }
}

const options = parse();
if (options === null) process.stdout.write(HELP);
else process.exit(await run(options));
