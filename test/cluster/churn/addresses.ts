// The few addresses that all pods of the churn share, and the name of the namespace that they are in.
export const NAMESPACE = "churn";
const NODES: readonly string[] = ["node1", "node2"];
/** Sixteen in all: with a dozen pods alive at a time every one of them changes hands again and again. */
const EACH = 8;

export const addressesOf = (node: string): string[] => {
  const number = NODES.indexOf(node) + 1;
  if (number === 0) throw new Error(`there is no node ${node} in the churn`);
  return Array.from({ length: EACH }, (_, index) => `10.244.${number}.${index + 2}`);
};

export const ALL: readonly string[] = NODES.flatMap(addressesOf);
