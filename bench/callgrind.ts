// Reads what callgrind wrote: instructions of Rust functions by name, and how often they copied memory.
//
// Only functions whose source is Rust count. AWS-LC picks other assembly on other CPUs, and so does the C library for memcpy; how often it is
// called does not depend on that.

export type Counts = {
  readonly instructions: number;
  /** Calls of memcpy, memmove and memset. */
  readonly copies: number;
  /** Own instructions of each function, most expensive first. */
  readonly functions: readonly (readonly [name: string, instructions: number])[];
};

const COPY = /^(?:__)?mem(?:cpy|move|set)/;
/** `fn=(12) name` the first time, `fn=(12)` later; the same for files (`fl=`, of a function) and what is called (`cfn=`). */
const NAMED = /^(fl|fn|cfn|cfi|cfl|fi|fe)=\((\d+)\)(?: (.*))?$/;
/** Position and cost: positions may be relative (`+3`, `-1`, `*`). */
const COST = /^[+-]?(?:\d+|\*)\S* (\d+)$/;

export function readCallgrind(text: string): Counts {
  const names = { file: new Map<string, string>(), function: new Map<string, string>() };
  const functions = new Map<string, number>();
  let [file, name, called, copies, inCall] = ["", "", "", 0, false];
  for (const line of text.split("\n")) {
    const named = NAMED.exec(line);
    if (named !== null) {
      const [, key = "", id = "", given] = named;
      const table = key.endsWith("fn") ? names.function : names.file;
      if (given !== undefined) table.set(id, given);
      const value = table.get(id) ?? "";
      if (key === "fl") file = value;
      if (key === "fn") name = value;
      if (key === "cfn") called = value;
    } else if (line.startsWith("calls=")) {
      inCall = true; // the next line is what the call cost with all that it called
      if (COPY.test(called) && file.endsWith(".rs")) copies += Number(line.slice("calls=".length).split(" ")[0]);
    } else {
      const cost = COST.exec(line)?.[1];
      if (cost === undefined) continue;
      if (!inCall && file.endsWith(".rs")) functions.set(name, (functions.get(name) ?? 0) + Number(cost));
      inCall = false;
    }
  }
  const sorted = [...functions].sort(([, a], [, b]) => b - a);
  return { instructions: sorted.reduce((sum, [, count]) => sum + count, 0), copies, functions: sorted };
}
