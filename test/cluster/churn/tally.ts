// Judges what was written down: the one thing that must never have happened, and what must have happened often for that to mean anything.
import type { FlowLine } from "#inspect/flow.ts";
import { type Account, isAllowed, type Member, type Record } from "./records.ts";

export type Tally = {
  readonly wrong: readonly Record[];
  /** Connections between pods of the mesh that were carried, by the client's account. */
  readonly allowed: Readonly<{ [account in Account]: number }>;
  /** Servers in the mesh that were met by each address: how often addresses changed hands. */
  readonly handovers: number;
  readonly missed: number;
};

export function tally(records: readonly Record[]): Tally {
  const wrong: Record[] = [];
  const allowed = { red: 0, blue: 0 };
  let missed = 0;
  const last = new Map<string, string>();
  let handovers = 0;
  for (const record of records) {
    if (record.kind === "missed") missed++;
    else if (record.kind === "reached") {
      if (!isAllowed(record.me, record.by)) wrong.push(record);
      else if (record.by.meshed) allowed[record.me.account]++;
    } else if (record.kind === "served") {
      if (!isAllowed(record.from, record.me)) wrong.push(record);
    } else if (record.kind === "started") {
      if (last.has(record.address) && last.get(record.address) !== record.uid) handovers++;
      last.set(record.address, record.uid);
    }
  }
  return { wrong, allowed, handovers, missed };
}

/**
 * Pairs of pods whose last word since `since` is not what policy says, or that had none: "who → whom: what". Pods outside of the mesh are
 * left out as servers, for their addresses are nobody's business.
 */
export function unsettled(records: readonly Record[], present: ReadonlyMap<string, Member>, since: number): string[] {
  const latest = new Map<string, Record>();
  for (const record of records)
    if ((record.kind === "reached" || record.kind === "missed") && record.at >= since) latest.set(`${record.me.uid} ${record.to}`, record);
  const found: string[] = [];
  for (const client of present.values())
    for (const [address, server] of present) {
      if (client.uid === server.uid || !server.meshed) continue;
      const record = latest.get(`${client.uid} ${address}`);
      const pair = `${client.account} ${client.uid} → ${address}, a pod of ${server.account} that refuses ${server.guard}`;
      if (record === undefined) found.push(`${pair}: never asked`);
      else if (isAllowed(client, server) && (record.kind !== "reached" || record.by.uid !== server.uid))
        found.push(`${pair}: ${record.kind === "missed" ? record.why : "another pod answered"}`);
      else if (!isAllowed(client, server) && record.kind === "reached") found.push(`${pair}: was answered`);
    }
  return found;
}

/** Flow records that put a name to an identity that is not that pod's, that were allowed against policy, or that left the mesh between two pods of it. */
export function mislabelled(lines: readonly FlowLine[], members: ReadonlyMap<string, Member>): string[] {
  const byUid = new Map([...members.values()].map((member) => [member.uid, member]));
  const found: string[] = [];
  for (const line of lines) {
    if (line.type !== "flow") continue;
    const { flow } = line;
    for (const end of [flow.source, flow.destination]) {
      const member = end.pod === null ? undefined : members.get(end.pod);
      if (member !== undefined && end.identity !== null && accountOf(end.identity) !== member.account)
        found.push(`${end.pod} of ${member.account} is called ${end.identity}: ${JSON.stringify(flow)}`);
    }
    const to = flow.destination.pod === null ? undefined : members.get(flow.destination.pod);
    if (flow.direction === "outbound" && flow.path === "plain" && to?.meshed === true)
      found.push(`${flow.destination.pod}, a pod of the mesh, was spoken to in clear: ${JSON.stringify(flow)}`);
    const server = byUid.get(flow.podUid);
    if (server === undefined || flow.direction !== "inbound" || flow.verdict !== "allowed") continue;
    if (flow.source.identity === null || accountOf(flow.source.identity) === server.guard)
      found.push(`${flow.source.identity ?? "nobody"} was let into a pod that refuses ${server.guard}: ${JSON.stringify(flow)}`);
  }
  return found;
}

const accountOf = (identity: string): string => identity.slice(identity.lastIndexOf("/") + 1);
