// GET /v1/state of a daemon: what its engine decides from, as lines of JSON, one about the node and one for each resource.
import type { EvalResource, EvalSettings, EvalType } from "./contract.ts";

export type StateAbout = {
  readonly node: string;
  /** The engine has acknowledged exactly these resources. */
  readonly inForce: boolean;
  readonly settings: EvalSettings;
};

export type StateLine = { readonly about: StateAbout } | { readonly resource: EvalResource };

type Encoded = { readonly name: string; readonly version: string; readonly body: Uint8Array };

export const resourceOf = (type: EvalType, { name, version, body }: Encoded): EvalResource => ({
  type,
  name,
  version,
  body: Buffer.from(body).toString("base64"),
});
