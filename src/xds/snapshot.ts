// What a node last applied, kept on disk so that a reboot enforces it before control answers. Sealed: a damaged file is not used.
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { meshError } from "#mesh/error.ts";
import { isTypeUrl, RESOURCE_TYPES, type TypeUrl, type XdsResource } from "./resource.ts";

export type MeshSettings = {
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly network: string;
  readonly encryptSameNode: boolean;
};

export type Snapshot = {
  readonly node: string;
  /** SHA-256 of each root that control was believed by: another mesh has other roots, a rotation keeps one of them. */
  readonly roots: readonly string[];
  readonly savedAt: Date;
  /** What control said about the whole mesh; null when it never did. */
  readonly settings: MeshSettings | null;
  readonly resources: ReadonlyMap<TypeUrl, readonly XdsResource[]>;
};

/** Raised when a reader of the old form would misread the new one; files of another format are not used. */
const FORMAT = 2;

const Settings = z.strictObject({ trustDomain: z.string(), clusterDomain: z.string(), network: z.string(), encryptSameNode: z.boolean() });
const Seal = z.strictObject({ kind: z.literal("trackbed-snapshot"), format: z.int(), bytes: z.int(), sha256: z.string() });
const Stored = z.strictObject({ name: z.string().min(1), version: z.string(), aliases: z.array(z.string()), body: z.base64() });
const Content = z.strictObject({
  node: z.string(),
  roots: z.array(z.string()),
  savedAt: z.iso.datetime(),
  settings: Settings.nullable(),
  resources: z.record(z.string(), z.array(Stored)),
});

/** One line that seals what follows, then the content. */
export function formatSnapshot(snapshot: Snapshot): string {
  const resources: Record<string, z.infer<typeof Stored>[]> = {};
  for (const [typeUrl, list] of snapshot.resources) {
    resources[typeUrl] = list.map(({ name, version, aliases, body }) => ({
      name,
      version,
      aliases: [...aliases],
      body: Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("base64"),
    }));
  }
  const { node, roots, savedAt, settings } = snapshot;
  const content = JSON.stringify({ node, roots: [...roots], savedAt: savedAt.toISOString(), settings, resources } satisfies z.infer<
    typeof Content
  >);
  const seal = { kind: "trackbed-snapshot" as const, format: FORMAT, bytes: Buffer.byteLength(content), sha256: digest(content) };
  return `${JSON.stringify(seal satisfies z.infer<typeof Seal>)}\n${content}\n`;
}

/** Throws E_SNAPSHOT_INVALID for anything that formatSnapshot of this version did not write for this node of this mesh. */
export function parseSnapshot(text: string, node: string, roots: readonly string[]): Snapshot {
  const cut = text.indexOf("\n");
  const content = text.slice(cut + 1, -1);
  const seal = checked(Seal, text.slice(0, cut), "its first line is not a seal");
  if (seal.format !== FORMAT) throw meshError("E_SNAPSHOT_INVALID", `the snapshot has format ${seal.format}, this version reads ${FORMAT}`);
  if (seal.bytes !== Buffer.byteLength(content) || seal.sha256 !== digest(content)) {
    throw meshError("E_SNAPSHOT_INVALID", "the snapshot's content does not match its seal");
  }
  const parsed = checked(Content, content, "its content has another shape");
  if (parsed.node !== node) throw meshError("E_SNAPSHOT_INVALID", `the snapshot belongs to node ${parsed.node}, this is ${node}`);
  if (!parsed.roots.some((root) => roots.includes(root)))
    throw meshError("E_SNAPSHOT_INVALID", "the snapshot is of a mesh with other root certificates than those of --root");
  const resources = new Map<TypeUrl, XdsResource[]>(RESOURCE_TYPES.map((typeUrl) => [typeUrl, []]));
  for (const [typeUrl, list] of Object.entries(parsed.resources)) {
    if (!isTypeUrl(typeUrl)) throw meshError("E_SNAPSHOT_INVALID", `the snapshot holds resources of the unknown type ${typeUrl}`);
    resources.set(
      typeUrl,
      list.map(({ body, ...resource }) => ({ ...resource, body: Buffer.from(body, "base64") })),
    );
  }
  return { node, roots: parsed.roots, savedAt: new Date(parsed.savedAt), settings: parsed.settings, resources };
}

/** Null when there is no file; throws E_SNAPSHOT_INVALID when there is one that must not be used. */
export async function readSnapshot(path: string, node: string, roots: readonly string[]): Promise<Snapshot | null> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return null;
    throw meshError("E_SNAPSHOT_INVALID", `the snapshot ${path} cannot be read`, cause);
  }
  return parseSnapshot(text, node, roots);
}

/** Replaces the file in one step: a crash at any moment leaves the old or the new one. One call at a time. */
export async function writeSnapshot(path: string, snapshot: Snapshot): Promise<void> {
  const next = `${path}.next`;
  const file = await open(next, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o600);
  try {
    await file.chmod(0o600); // an older file of that name may have been wider
    await file.writeFile(formatSnapshot(snapshot));
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(next, path);
  const directory = await open(dirname(path), constants.O_RDONLY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Name → version of what a snapshot holds: the `held` of an xDS client. */
export const heldOf = ({ resources }: Snapshot): ReadonlyMap<TypeUrl, ReadonlyMap<string, string>> =>
  new Map([...resources].map(([typeUrl, list]) => [typeUrl, new Map(list.map(({ name, version }) => [name, version]))]));

const digest = (content: string): string => createHash("sha256").update(content).digest("hex");

function checked<T>(schema: z.ZodType<T>, text: string, fault: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw meshError("E_SNAPSHOT_INVALID", `the snapshot is damaged: ${fault}`, cause);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw meshError("E_SNAPSHOT_INVALID", `the snapshot is damaged: ${fault}`, parsed.error);
  return parsed.data;
}
