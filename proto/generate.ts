// Writes proto/tables.json as typed constants for TypeScript and Rust. Run by `make generate`; `make check` fails when the result differs.
import { readFileSync, writeFileSync } from "node:fs";

type Entry = { value: string | number; help: string; where?: string; on?: string };
type ErrorEntry = { code: string; side: string; retryable: string; help: string; next: string };
type MetricEntry = { name: string; type: string; help: string };
type Tables = {
  product: Record<string, string | number>;
  errors: ErrorEntry[];
  metrics: MetricEntry[];
} & Record<string, Record<string, Entry>>;

const GROUPS = ["ports", "marks", "addresses", "paths", "kubernetes", "labels", "annotations", "bounds", "wire"] as const;
const root = new URL("../", import.meta.url);
const tables = JSON.parse(readFileSync(new URL("proto/tables.json", root), "utf8")) as Tables;
const note = "Generated from proto/tables.json by proto/generate.ts. Do not edit.";

const camel = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
const group = (name: (typeof GROUPS)[number]): [string, Entry][] => Object.entries(tables[name] ?? {});

function typescript(): string {
  const out = [`// ${note}`, ""];
  out.push("export const product = {");
  for (const [name, value] of Object.entries(tables.product)) out.push(`  ${camel(name)}: ${JSON.stringify(value)},`);
  out.push("} as const;");
  for (const name of GROUPS) {
    out.push("", `export const ${name} = {`);
    for (const [key, entry] of group(name)) {
      const place = entry.where ?? entry.on;
      out.push(`  /** ${entry.help}${place === undefined ? "" : ` (${place})`} */`, `  ${camel(key)}: ${JSON.stringify(entry.value)},`);
    }
    out.push("} as const;");
  }
  out.push("", "export const errors = {");
  for (const { code, side, retryable, help, next } of tables.errors) {
    out.push(`  ${code}: {`, `    side: ${JSON.stringify(side)},`, `    retryable: ${JSON.stringify(retryable)},`);
    out.push(`    help: ${JSON.stringify(help)},`, `    next: ${JSON.stringify(next)},`, "  },");
  }
  out.push("} as const;", "", "export type ErrorCode = keyof typeof errors;", "", "export const metrics = {");
  for (const { name, type, help } of tables.metrics)
    out.push(`  ${name}: { type: ${JSON.stringify(type)}, help: ${JSON.stringify(help)} },`);
  out.push("} as const;", "");
  return out.join("\n");
}

const rustType = (value: string | number, groupName: string): string => {
  if (typeof value === "string") return "&str";
  return ["ports", "addresses", "wire"].includes(groupName) ? "u16" : "u32";
};
const rustValue = (value: string | number): string =>
  typeof value === "string" ? JSON.stringify(value) : value.toLocaleString("en").replaceAll(",", "_");

function rust(): string {
  const out = [`//! ${note}`, "", "pub mod product {"];
  for (const [name, value] of Object.entries(tables.product))
    out.push(`    pub const ${name.toUpperCase()}: ${rustType(value, "product")} = ${rustValue(value)};`);
  out.push("}");
  for (const name of GROUPS) {
    out.push("", `pub mod ${name} {`);
    for (const [key, entry] of group(name)) {
      const port = name === "ports" || name === "addresses" ? String(entry.value) : rustValue(entry.value);
      const text = typeof entry.value === "string" ? JSON.stringify(entry.value) : port.length > 4 ? rustValue(entry.value) : port;
      out.push(`    /// ${entry.help}`, `    pub const ${key.toUpperCase()}: ${rustType(entry.value, name)} = ${text};`);
    }
    out.push("}");
  }
  out.push("", "pub mod errors {");
  for (const { code, help, next } of tables.errors)
    out.push(`    /// ${help}; ${next}`, `    pub const ${code.slice(2)}: &str = ${JSON.stringify(code)};`);
  out.push("    /// What to do next, by code.", "    pub const NEXT: &[(&str, &str)] = &[");
  for (const { code, next } of tables.errors) out.push(`        (${code.slice(2)}, ${JSON.stringify(next)}),`);
  out.push("    ];", "}", "", "pub mod metrics {");
  for (const { name, help } of tables.metrics)
    out.push(`    /// ${help}`, `    pub const ${name.toUpperCase()}: &str = ${JSON.stringify(name)};`);
  out.push("}", "");
  return out.join("\n");
}

writeFileSync(new URL("src/contract/tables.ts", root), typescript());
writeFileSync(new URL("native/contract/src/tables.rs", root), rust());
