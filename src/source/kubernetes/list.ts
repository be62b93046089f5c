// Lists one resource page by page, projecting each page before the next is asked for: a big cluster is never in memory as it was sent.
import { z } from "zod";
import type { Api } from "./api.ts";
import { listPath, type Resource } from "./resources.ts";

/** An object as the server sends it; `project` makes of it what is kept. */
export type Raw = {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | undefined;
    readonly uid: string;
    readonly resourceVersion: string;
  };
};

const meta = z.looseObject({ name: z.string(), namespace: z.string().optional(), uid: z.string(), resourceVersion: z.string() });
export const raw = z.looseObject({ metadata: meta });
const page = z.object({
  metadata: z.object({ resourceVersion: z.string().min(1), continue: z.string().optional() }),
  // Null is what Go writes for none.
  items: z.array(raw).nullable(),
});

export type Listed<T> = { readonly items: readonly T[]; readonly version: string };

/** Complete, or an ApiFailure: a list whose page failed says nothing about what is absent. */
export async function list<T>(
  api: Api,
  resource: Resource,
  pageSize: number,
  project: (raw: Raw) => T,
  onPage: () => void,
  signal: AbortSignal,
): Promise<Listed<T>> {
  const items: T[] = [];
  let next = "";
  for (;;) {
    const query = { ...resource.query, limit: String(pageSize), ...(next === "" ? {} : { continue: next }) };
    const { metadata, items: found } = page.parse(await api.call({ method: "GET", path: listPath(resource), query, signal }));
    for (const one of found ?? []) items.push(project(one));
    onPage();
    next = metadata.continue ?? "";
    if (next === "") return { items, version: metadata.resourceVersion };
  }
}
