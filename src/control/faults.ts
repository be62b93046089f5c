// Faults of documents, told once when they appear and once when they are mended; the list of those there are now is for the CLI.
import { errors } from "#contract/tables.ts";
import type { Fault } from "#source/source.ts";

export type FaultBoard = {
  /** Takes every fault there is now. */
  update(faults: readonly Fault[]): void;
  /** As the CLI shows them. */
  list(): readonly (Fault & { readonly next: string })[];
};

export function createFaultBoard(onNew: (fault: Fault) => void, onMended: (fault: Fault) => void): FaultBoard {
  let current = new Map<string, Fault>();

  function update(faults: readonly Fault[]): void {
    const next = new Map(faults.map((fault) => [JSON.stringify([fault.code, fault.key, fault.file, fault.field, fault.reason]), fault]));
    for (const [id, fault] of next) if (!current.has(id)) onNew(fault);
    for (const [id, fault] of current) if (!next.has(id)) onMended(fault);
    current = next;
  }

  return { update, list: () => [...current.values()].map((fault) => ({ ...fault, next: errors[fault.code].next })) };
}
