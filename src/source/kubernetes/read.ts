// One object as the server has it at this moment, past every cache: for decisions that must not rest on an older answer.
import { type Projection, projectDocument } from "../project/project.ts";
import type { Api } from "./api.ts";
import { isStatus } from "./failure.ts";
import { raw } from "./list.ts";
import { reduce } from "./reduce.ts";
import { objectPath, type Resource } from "./resources.ts";

/** Null when there is no such object; an ApiFailure when the server does not say. */
export async function readObject(
  api: Api,
  resource: Resource,
  namespace: string,
  name: string,
  signal?: AbortSignal,
): Promise<Projection | null> {
  const path = objectPath(resource, namespace, name);
  try {
    const found = await api.call({ method: "GET", path, ...(signal === undefined ? {} : { signal }) });
    return projectDocument(reduce(resource, raw.parse(found)));
  } catch (error) {
    if (isStatus(error, 404)) return null;
    throw error;
  }
}
