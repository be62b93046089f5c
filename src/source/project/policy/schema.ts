// One description of a field serves twice: this reader parses by it, and the CustomResourceDefinition is written from it. What a schema of OpenAPI
// cannot say is a rule of CEL beside the same rule in TypeScript; a test asks a real API server whether both say the same.
import { z } from "zod";
import { parseDuration } from "../duration.ts";

export type Rule<T> = { readonly cel: string; readonly message: string; readonly holds: (value: T) => boolean };

/** The schema with rules on it. */
export function ruled<T extends z.ZodType>(schema: T, ...rules: readonly Rule<z.output<T>>[]): T {
  const checked = rules.reduce<z.ZodType>((one, { holds, message }) => one.refine((value) => holds(value as z.output<T>), message), schema);
  const { id: _, ...meta } = schema.meta() ?? {};
  return checked.meta({ ...meta, "x-kubernetes-validations": rules.map(({ cel, message }) => ({ rule: cel, message })) }) as T;
}

/** GEP-2257, as in the Gateway API; in milliseconds. */
export const duration = z
  .string()
  .regex(/^([0-9]{1,5}(h|m|s|ms)){1,4}$/)
  .transform((text) => Math.min(parseDuration(text) ?? 0, MOST_MILLISECONDS));
/** What 32 bits hold: seven weeks. */
const MOST_MILLISECONDS = 0xffff_ffff;

export const count = (most: number, least = 0) => z.int().min(least).max(most);
export const text = (most: number) => z.string().min(1).max(most);

type Json = { [field: string]: unknown };

/** What a CustomResourceDefinition takes: a structural schema. Fields that nobody knows are refused there by `fieldValidation: Strict` and pruned. */
export const openApi = (schema: z.ZodType): Json => structural(z.toJSONSchema(schema, { io: "input" }) as Json);

const NOT_STRUCTURAL = new Set(["$schema", "propertyNames"]);

function structural(schema: Json): Json {
  return Object.fromEntries(
    Object.entries(schema)
      .filter(([name, value]) => !NOT_STRUCTURAL.has(name) && !(name === "additionalProperties" && value === false))
      .map(([name, value]) => [name, inner(name, value)]),
  );
}

function inner(name: string, value: unknown): unknown {
  if (name === "properties")
    return Object.fromEntries(Object.entries(value as Json).map(([field, one]) => [field, structural(one as Json)]));
  if (name === "items" || name === "additionalProperties") return structural(value as Json);
  return value;
}
