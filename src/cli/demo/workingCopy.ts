// The demo's own copy of the example, whose documents it edits as an operator would: whole files, replaced in one step.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { labels } from "#contract/tables.ts";

const EXAMPLE = join(import.meta.dirname, "../../../examples/shop");
/** Marks a directory that the demo made, so that no other is ever emptied. */
const MARK = ".trackbed-demo";

export type WorkingCopy = {
  readonly directory: string;
  /** Writes a document file, or removes it with null. */
  write(file: string, text: string | null): void;
  /** Sets a pod's own mesh label in the file that holds it, or takes it away with null. */
  setMeshLabel(file: string, pod: string, value: "enabled" | "disabled" | null): void;
};

/** A fresh copy of the example. Refuses a directory with other content. */
export function makeWorkingCopy(directory: string): WorkingCopy {
  const isForeign = existsSync(directory) && readdirSync(directory).length > 0 && !existsSync(join(directory, MARK));
  if (isForeign) throw new Error(`${directory} holds something that no demo put there: name an empty or a new directory with --mesh`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, MARK), "made by trackbed demo; emptied by the next one\n");
  cpSync(EXAMPLE, directory, { recursive: true });

  const write = (file: string, text: string | null): void => {
    const path = join(directory, file);
    if (text === null) rmSync(path, { force: true });
    else {
      writeFileSync(`${path}.new`, text); // not *.yaml: nobody reads half a document
      renameSync(`${path}.new`, path);
    }
  };
  return {
    directory,
    write,
    setMeshLabel(file, pod, value) {
      const documents = parseAllDocuments(readFileSync(join(directory, file), "utf8"));
      const document = documents.find((each) => each.getIn(["kind"]) === "Pod" && each.getIn(["metadata", "name"]) === pod);
      if (document === undefined) throw new Error(`${file} holds no Pod ${pod}`);
      const path = ["metadata", "labels", labels.mesh];
      if (value === null) document.deleteIn(path);
      else document.setIn(path, value);
      write(file, documents.map(String).join("---\n"));
    },
  };
}
