// A Secret of ours with an authority's files in it, read and written against the version that was read.
import { z } from "zod";
import type { Bundle } from "#ca/bundle.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";

export type Stored = { readonly bundle: Bundle; readonly version: string };

export type Secrets = {
  /** For people. */
  where(name: string): string;
  read(name: string): Promise<Stored | null>;
  /** Makes it, or replaces the version that was read. Another replica may be faster: what is there then is returned, null when it went away. */
  write(name: string, bundle: Bundle, version?: string): Promise<Stored | null>;
};

const SECRETS = { root: "/api/v1", plural: "secrets" };

const secret = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  data: z.record(z.string(), z.string()).default({}),
});

export function openSecrets(api: Api, namespace: string): Secrets {
  const pathOf = (name: string): string => objectPath(SECRETS, namespace, name);

  async function read(name: string): Promise<Stored | null> {
    try {
      const { metadata, data } = secret.parse(await api.call({ method: "GET", path: pathOf(name) }));
      const decoded = Object.entries(data).map(([file, text]) => [file, Buffer.from(text, "base64").toString("utf8")]);
      return { bundle: Object.fromEntries(decoded) as Bundle, version: metadata.resourceVersion };
    } catch (error) {
      if (isStatus(error, 404)) return null;
      throw error;
    }
  }

  async function write(name: string, bundle: Bundle, version?: string): Promise<Stored | null> {
    const labels = { "app.kubernetes.io/part-of": "trackbed" };
    const body = {
      apiVersion: "v1",
      kind: "Secret",
      type: "Opaque",
      metadata: { name, namespace, labels, ...(version === undefined ? {} : { resourceVersion: version }) },
      data: Object.fromEntries(Object.entries(bundle).map(([file, text]) => [file, Buffer.from(text).toString("base64")])),
    };
    try {
      if (version === undefined) await api.call({ method: "POST", path: pathOf("").slice(0, -1), body });
      else await api.call({ method: "PUT", path: pathOf(name), body });
    } catch (error) {
      if (!isStatus(error, 409)) throw error;
    }
    return read(name);
  }

  return { where: (name) => `Secret ${namespace}/${name}`, read, write };
}
