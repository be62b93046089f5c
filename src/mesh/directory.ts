// A directory that an option names, made ready or refused with the option's name: every process begins with this.
import { mkdirSync, readdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { meshError } from "./error.ts";

/** With its parents, for root alone. */
export function makeDirectory(option: string, path: string): void {
  try {
    make(resolve(path));
  } catch (cause) {
    throw meshError("E_DIRECTORY_UNUSABLE", `the directory ${path} (${option}) cannot be made`, cause);
  }
}

export function requireDirectory(option: string, path: string): void {
  try {
    readdirSync(path);
  } catch (cause) {
    const absent = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    const what = absent ? "does not exist" : "cannot be read";
    throw meshError("E_DIRECTORY_UNUSABLE", `the directory ${path} (${option}) ${what}`, cause);
  }
}

/** Node's own `recursive` asks for ever where a parent is there and the child is not to be had, as below /proc. */
function make(path: string): void {
  try {
    readdirSync(path);
    return;
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
  }
  if (dirname(path) !== path) make(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    readdirSync(path); // somebody else made it meanwhile
  }
}
