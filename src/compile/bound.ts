// No resource may be larger than a stream can carry: one that is would end the stream of every node. What is too large is closed, not cut.
import { bounds } from "#contract/tables.ts";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import type { ObjectKey } from "#mesh/objects.ts";
import type { ObjectFault, Resource } from "./resource.ts";

/** Half of a message, as much as streams put into one: the other half is room for what stands around a resource. */
export const RESOURCE_BYTES = bounds.grpcMessageBytes / 2;

/** No policy has this name ("." begins no name), so who carries it is refused until his own policies can be told. */
export const UNTOLD_POLICY = "/.too-many-policies";

export const isTooLarge = ({ body }: Resource): boolean => body.length > RESOURCE_BYTES;

/** The same policy as one that denies all that it selects. */
export const closedPolicy = (policy: AuthorizationPolicy): AuthorizationPolicy => ({
  ...policy,
  action: "DENY",
  rules: [],
  unenforceable: ["spec"],
});

export const tooLarge = (key: ObjectKey, code: ObjectFault["code"], { body }: Resource, effect: string): ObjectFault => ({
  key,
  code,
  field: "",
  reason: `compiled it has ${body.length} bytes, nodes are sent at most ${RESOURCE_BYTES}; ${effect}`,
});
