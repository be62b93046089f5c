// How many strangers' tokens one address may have looked at: each costs the API server a review.
export type Allowance = {
  /** False when the address has shown so many strangers' tokens that it has to wait. */
  has(address: string): boolean;
  /** A token that it showed was a stranger's. */
  spend(address: string): void;
};

/** A node whose daemon is rolled while its token is renewed shows a few unknown ones; nobody honest shows more. */
const BURST = 16;
const REFILL_MILLISECONDS = 5_000;
/** Ten times the nodes of one replica; the one that was longest quiet is forgotten, and is a newcomer again. */
const ADDRESSES = 10_000;

export function createAllowance(now: () => number): Allowance {
  const accounts = new Map<string, { readonly left: number; readonly at: number }>();

  function leftOf(address: string): number {
    const account = accounts.get(address);
    return account === undefined ? BURST : Math.min(BURST, account.left + (now() - account.at) / REFILL_MILLISECONDS);
  }

  return {
    has: (address) => leftOf(address) >= 1,
    spend: (address) => {
      const left = Math.max(0, leftOf(address) - 1);
      accounts.delete(address);
      if (accounts.size >= ADDRESSES) accounts.delete(accounts.keys().next().value ?? "");
      accounts.set(address, { left, at: now() });
    },
  };
}
