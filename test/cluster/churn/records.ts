// What is written down while pods come and go: one line for each connection and each sandbox, by kubelet.ts and member.ts, read by tally.ts.

export type Account = "red" | "blue";

/** Who somebody says that he is: members do not lie, so what one says to another is what really met whom. */
export type Member = {
  readonly uid: string;
  readonly account: Account;
  /** The account that a policy keeps from it. */
  readonly guard: Account;
  readonly meshed: boolean;
};

export type Record =
  /** A client was answered. */
  | { readonly kind: "reached"; readonly at: number; readonly me: Member; readonly to: string; readonly by: Member }
  /** It was not, for whatever reason. */
  | { readonly kind: "missed"; readonly at: number; readonly me: Member; readonly to: string; readonly why: string }
  /** A server read the first words of a client. */
  | { readonly kind: "served"; readonly at: number; readonly me: Member; readonly from: Member }
  | { readonly kind: "started"; readonly at: number; readonly uid: string; readonly address: string; readonly meshMs: number }
  | { readonly kind: "refused"; readonly at: number; readonly uid: string; readonly reason: string }
  | { readonly kind: "ended"; readonly at: number; readonly uid: string; readonly address: string; readonly delMs: number };

/** Whether policy lets `client` speak to `server`: STRICT keeps those out that are not in the mesh, and each server one of the two accounts. */
export const isAllowed = (client: Member, server: Member): boolean => !server.meshed || (client.meshed && client.account !== server.guard);
