// Which namespaces are captured, on disk: a daemon that starts again knows what it promised even when rules were flushed or a pod's document
// went away meanwhile.
import { open, readFile, rename } from "node:fs/promises";
import { z } from "zod";
import type { NamespaceIdentity } from "#enrol/state.ts";
import { meshError } from "#mesh/error.ts";
import type { PodSpec } from "./desired.ts";
import type { PodRecord } from "./pod.ts";

const Promised = z.object({
  uid: z.string(),
  namespace: z.string(),
  name: z.string(),
  serviceAccount: z.string(),
  netns: z.string().nullable(),
  bootId: z.string(),
  cookie: z.string().regex(/^[0-9]+$/),
});
const File = z.object({ kind: z.literal("trackbed-captured"), format: z.literal(1), pods: z.array(Promised) });

export type Promises = {
  /** What an earlier daemon promised and this boot still may hold it to. */
  readonly kept: readonly { readonly spec: PodSpec; readonly captured: NamespaceIdentity }[];
  /** Writes what is captured now, when it changed. Rejections are told to `failed`: the file is a memory, the namespaces are the truth. */
  note(records: Iterable<PodRecord>): void;
  flush(): Promise<void>;
};

/** A damaged file is told to `failed` and forgotten: rules that are in force are found in the namespaces themselves. */
export async function loadPromises(path: string, bootId: string, failed: (error: Error) => void): Promise<Promises> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") failed(error);
    return null;
  });
  const pods = text === null ? [] : parse(text, path, failed);
  let written = "";
  let wanted = "";
  let writing: Promise<void> | null = null;

  async function write(): Promise<void> {
    while (written !== wanted) {
      const content = wanted;
      try {
        await replace(path, content);
      } catch (error) {
        failed(meshError("E_SNAPSHOT_INVALID", `${path} cannot be written`, error));
      }
      written = content;
    }
    writing = null;
  }

  return {
    kept: pods
      .filter((pod) => pod.bootId === bootId)
      .map(({ bootId: boot, cookie, ...pod }) => ({ spec: remembered(pod), captured: { bootId: boot, cookie: BigInt(cookie) } })),
    note: (records) => {
      wanted = format(records);
      if (wanted !== written) writing ??= write();
    },
    flush: async () => {
      await writing;
    },
  };
}

function parse(text: string, path: string, failed: (error: Error) => void): z.infer<typeof Promised>[] {
  try {
    return File.parse(JSON.parse(text)).pods;
  } catch (cause) {
    failed(meshError("E_SNAPSHOT_INVALID", `${path} is damaged and was not used`, cause));
    return [];
  }
}

function format(records: Iterable<PodRecord>): string {
  const pods: z.infer<typeof Promised>[] = [];
  for (const { spec, observed } of records) {
    if (observed.captured === null) continue;
    const { uid, namespace, name, serviceAccount, netns } = spec;
    pods.push({
      uid,
      namespace,
      name,
      serviceAccount,
      netns,
      bootId: observed.captured.bootId,
      cookie: observed.captured.cookie.toString(),
    });
  }
  return `${JSON.stringify({ kind: "trackbed-captured", format: 1, pods } satisfies z.infer<typeof File>)}\n`;
}

async function replace(path: string, content: string): Promise<void> {
  const next = `${path}.next`;
  const file = await open(next, "w", 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(next, path);
}

/** Enough of a pod to find its namespace again; a document that names the pod fills in the rest. */
function remembered(pod: Pick<PodSpec, "uid" | "namespace" | "name" | "serviceAccount" | "netns">): PodSpec {
  const none = { ports: [], cidrs: [] };
  return {
    ...pod,
    desired: "deleted",
    addresses: [],
    dnsSearch: [],
    capture: { inbound: true, dns: true, excludeOutbound: none, excludeInbound: none, probePorts: [] },
    observe: "off",
    closed: false,
    vacant: false,
    refused: null,
    annotationFaults: [],
  };
}
