// Documents that somebody is about to apply: read as strictly as a source reads them, and put over what is there.
import { readFileSync, statSync } from "node:fs";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import { parseText } from "#source/directory/documents.ts";
import { directorySource } from "#source/directory.ts";
import { formatPath } from "#source/project/problem.ts";
import { projectDocument } from "#source/project/project.ts";
import { usage } from "../outcome.ts";

/** What is wrong with a document, and where. */
export type DocumentFault = { readonly file: string; readonly line: number; readonly field: string; readonly reason: string };

export type Documents = { readonly objects: readonly MeshObject[]; readonly faults: readonly DocumentFault[] };

/** A file, a directory, or - for standard input. */
export async function readDocuments(path: string): Promise<Documents> {
  if (path !== "-" && statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) {
    const stop = new AbortController();
    for await (const { put, faults } of directorySource(path)(stop.signal)) {
      stop.abort();
      return { objects: put, faults: faults.map(({ file, line, field, reason }) => ({ file, line, field, reason })) };
    }
  }
  return documentsOf(readText(path), path === "-" ? "standard input" : path);
}

export function documentsOf(text: string, file: string): Documents {
  const { documents, syntax } = parseText(text);
  const objects: MeshObject[] = [];
  const faults: DocumentFault[] = syntax.map(({ problem, line }) => ({
    file,
    line,
    field: formatPath(problem.path),
    reason: problem.reason,
  }));
  for (const { value, lineOf } of documents) {
    const { object, problems } = projectDocument(value);
    if (object !== null) objects.push(object);
    for (const { path, reason } of problems) faults.push({ file, line: lineOf(path), field: formatPath(path), reason });
  }
  return { objects, faults };
}

/** As the cluster would be: theirs in place of what is called the same, without what is taken away. */
export function changed(current: readonly MeshObject[], put: readonly MeshObject[], remove: readonly ObjectKey[]): MeshObject[] {
  const all = new Map(current.map((object) => [keyOf(object), object]));
  for (const key of remove) if (!all.delete(key)) throw usage(`--remove ${key}: there is no such object`);
  for (const object of put) all.set(keyOf(object), object);
  return [...all.values()];
}

function readText(path: string): string {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (error) {
    throw usage(`${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}
