// What a directory's files put in force, all faults considered: pure bookkeeping from file texts to one Change.
import { createHash } from "node:crypto";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import { formatPath, type Path, type Problem } from "../project/problem.ts";
import { projectDocument } from "../project/project.ts";
import type { Change, Fault, Place } from "../source.ts";
import { parseText } from "./documents.ts";

/** One file as it is now: its text, or why it cannot be read. */
export type FileContent = { readonly text: string } | { readonly unreadable: string };

type Entry = {
  readonly key: ObjectKey;
  readonly line: number;
  /** Valid, null when only what was valid before may stay in force. */
  readonly object: MeshObject | null;
  readonly standIn: MeshObject | null;
};

type HeldFile = {
  readonly entries: readonly Entry[];
  readonly faults: readonly Fault[];
};

export type Holdings = {
  /** Takes a file's new content; null when the file is gone. */
  set(file: string, content: FileContent | null): void;
  /** Faults of the directory itself, such as a subdirectory that cannot be read. Replaces the earlier ones. */
  setTrouble(faults: readonly Fault[]): void;
  /** Everything that changed since the last call as one batch, null when nothing did. The first call gives a reset. */
  take(): Change | null;
};

export function createHoldings(): Holdings {
  const files = new Map<string, HeldFile>();
  const lastValid = new Map<ObjectKey, MeshObject>();
  const places = new Map<ObjectKey, Place>();
  let trouble: readonly Fault[] = [];
  let given: ReadonlyMap<ObjectKey, string> | null = null;
  let givenFaults = "";

  return {
    set: (file, content) => {
      if (content === null) files.delete(file);
      else files.set(file, readFile(file, content, files.get(file) ?? { entries: [], faults: [] }));
    },
    setTrouble: (faults) => {
      trouble = faults;
    },
    take: () => {
      const { objects, faults } = inForce(files, lastValid, places);
      const all = [...trouble, ...faults];
      const current = new Map([...objects].map(([key, object]) => [key, hashOf(object)]));
      const before = given ?? new Map<ObjectKey, string>();
      const put = [...objects].filter(([key]) => before.get(key) !== current.get(key)).map(([, object]) => object);
      const remove = [...before.keys()].filter((key) => !current.has(key));
      const faultsHash = hash(all);
      const reset = given === null;
      if (!reset && put.length === 0 && remove.length === 0 && faultsHash === givenFaults) return null;
      given = current;
      givenFaults = faultsHash;
      return { reset, put, remove, faults: all, places };
    },
  };
}

/** Objects are immutable, and most of them are the same ones as in the pass before. */
const hashes = new WeakMap<MeshObject, string>();

function hashOf(object: MeshObject): string {
  const known = hashes.get(object);
  if (known !== undefined) return known;
  const computed = hash(object);
  hashes.set(object, computed);
  return computed;
}

const hash = (value: unknown): string => createHash("sha256").update(JSON.stringify(value)).digest("base64");

function readFile(file: string, content: FileContent, before: HeldFile): HeldFile {
  const fault = (problem: Problem, key: ObjectKey | null, line: number, base: Path = []): Fault => ({
    code: problem.code,
    key,
    file,
    line,
    field: formatPath([...base, ...problem.path]),
    reason: problem.reason,
  });
  if ("unreadable" in content)
    return { entries: before.entries, faults: [fault({ code: "E_SOURCE_INVALID", path: [], reason: content.unreadable }, null, 1)] };
  const { documents, syntax } = parseText(content.text);
  const faults = syntax.map(({ problem, line }) => fault(problem, null, line));
  const entries: Entry[] = [];
  let anonymous = syntax.length > 0;
  for (const document of documents) {
    const { key, object, identified, standIn, problems } = projectDocument(document.value);
    faults.push(...problems.map((problem) => fault(problem, key, document.lineOf(problem.path), document.base)));
    if (key !== null) entries.push({ key, line: document.lineOf([]), object, standIn });
    else if (!identified) anonymous = true;
  }
  // A part of the file cannot be told apart from what it was before: what the file gave and no longer names stays.
  const kept = anonymous ? before.entries.filter((old) => !entries.some(({ key }) => key === old.key)) : [];
  return { entries: [...entries, ...kept], faults };
}

/** A pod that is in force keeps its uid while a document names it: a copy in an earlier file must not take it out of the mesh. */
function uidHolders(files: ReadonlyMap<string, HeldFile>, lastValid: ReadonlyMap<ObjectKey, MeshObject>): Map<string, ObjectKey> {
  const named = new Set([...files.values()].flatMap(({ entries }) => entries.map(({ key }) => key)));
  const holders = [...lastValid].filter(([key, { kind }]) => kind === "Pod" && named.has(key));
  return new Map(holders.map(([key, { metadata }]) => [metadata.uid, key]));
}

/** The first document of an object by path order is the one in force; `lastValid` and `places` are brought up to date. */
function inForce(files: ReadonlyMap<string, HeldFile>, lastValid: Map<ObjectKey, MeshObject>, places: Map<ObjectKey, Place>) {
  const objects = new Map<ObjectKey, MeshObject>();
  const faults: Fault[] = [];
  const uids = uidHolders(files, lastValid);
  places.clear();
  for (const [file, held] of [...files].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
    faults.push(...held.faults);
    for (const { key, line, object, standIn } of held.entries) {
      const owner = places.get(key);
      if (owner !== undefined) {
        faults.push({
          code: "E_SOURCE_INVALID",
          key,
          file,
          line,
          field: "metadata.name",
          reason: `the object is already given by ${owner.file}:${owner.line}; that one is in force`,
        });
        continue;
      }
      places.set(key, { file, line });
      const valid = object ?? lastValid.get(key) ?? standIn;
      if (valid === null || valid === undefined) continue;
      const holder = valid.kind === "Pod" ? (uids.get(valid.metadata.uid) ?? key) : key;
      if (holder !== key) {
        const reason = `the uid is that of ${holder.slice("Pod/".length)}: nodes know a pod by it, so this one is not in force`;
        faults.push({ code: "E_SOURCE_INVALID", key, file, line, field: "metadata.uid", reason });
        continue;
      }
      if (valid.kind === "Pod") uids.set(valid.metadata.uid, key);
      objects.set(key, valid);
    }
  }
  for (const held of files.values())
    for (const { object } of held.entries)
      if (object !== null && objects.get(keyOf(object)) === object) lastValid.set(keyOf(object), object);
  for (const key of lastValid.keys()) if (!places.has(key)) lastValid.delete(key);
  return { objects, faults };
}
