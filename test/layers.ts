// Checks the dependency directions of the architecture by reading import statements: libraries stay below processes, and no two folders
// import each other in a circle. One line when all is well, otherwise every violation and exit code 1.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const root = resolve(import.meta.dirname, "..");
const source = join(root, "src");

/** Nobody imports a process, but the command line and the tests may use the lab. */
const PROCESSES: ReadonlySet<string> = new Set(["control", "daemon", "cli", "dashboard", "lab"]);
const MAY_IMPORT_PROCESS: Readonly<Record<string, readonly string[]>> = { cli: ["lab"] };
/** Folders whose whole list of imports of ours is stated; the others may import any library. */
const MAY_IMPORT_ONLY: Readonly<Record<string, readonly string[]>> = { contract: [], mesh: ["contract"] };
const IMPORT = /(?:^|[\s;}])(?:import|export)\s(?:[^'"`;]*?\sfrom\s+)?["']([^"']+)["']|import\(\s*["']([^"']+)["']\s*\)/g;

type Import = { readonly file: string; readonly line: number; readonly from: string; readonly to: string; readonly main: boolean };

/** Folder of src/ that a specifier leads to, null when it is not one of ours. */
function target(file: string, specifier: string): { folder: string; main: boolean } | null {
  const path = specifier.startsWith("#")
    ? join(source, specifier.slice(1))
    : specifier.startsWith(".")
      ? resolve(dirname(file), specifier)
      : null;
  if (path === null || !path.startsWith(`${source}/`)) return null;
  const [folder = ""] = relative(source, path).split("/");
  return { folder, main: path.endsWith("/main.ts") };
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, "utf8");
  const [from = ""] = relative(source, file).split("/");
  return [...text.matchAll(IMPORT)].flatMap((match) => {
    const found = target(file, match[1] ?? match[2] ?? "");
    const line = text.slice(0, match.index).split("\n").length;
    return found === null ? [] : [{ file: relative(root, file), line, from, to: found.folder, main: found.main }];
  });
}

function violation({ file, line, from, to, main }: Import): string[] {
  const where = `${file}:${line}: `;
  if (main && !file.endsWith(".test.ts")) return [`${where}imports src/${to}/main.ts: a process is started, never imported`];
  if (from === to || file.endsWith(".test.ts")) return [];
  if (PROCESSES.has(to) && !(MAY_IMPORT_PROCESS[from] ?? []).includes(to)) return [`${where}imports the process src/${to}`];
  const only = MAY_IMPORT_ONLY[from];
  if (only !== undefined && !only.includes(to))
    return [`${where}src/${from} may import nothing of ours but ${only.join(", ") || "itself"}`];
  return [];
}

/** One circle through each folder that has one, as "a → b → a". */
function circles(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const found = new Set<string>();
  const visit = (path: readonly string[]): void => {
    for (const next of edges.get(path.at(-1) ?? "") ?? []) {
      const start = path.indexOf(next);
      if (start < 0) visit([...path, next]);
      else {
        const circle = path.slice(start);
        const first = circle.indexOf([...circle].sort()[0] ?? "");
        found.add([...circle.slice(first), ...circle.slice(0, first), circle[first]].join(" → "));
      }
    }
  };
  for (const folder of edges.keys()) visit([folder]);
  return [...found];
}

const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".ts"));
const imports = files.flatMap((path) => importsOf(join(source, path)));
const edges = new Map<string, Set<string>>();
for (const { from, to, file } of imports)
  if (from !== to && !file.endsWith(".test.ts")) edges.set(from, (edges.get(from) ?? new Set()).add(to));

const violations = [...imports.flatMap(violation), ...circles(edges).map((circle) => `src: folders import each other: ${circle}`)];
for (const text of violations) console.error(text);
if (violations.length === 0)
  console.log(`${files.length} files in ${new Set(files.map((file) => file.split("/")[0])).size} folders keep the dependency directions`);
process.exitCode = violations.length === 0 ? 0 : 1;
