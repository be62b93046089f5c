// Carries control's resources to the engine as opaque bytes, and keeps on disk what a restart has to work from.
import { ResourceType } from "#contract/gen/engine_pb.ts";
import type { Director, StateChange, StateKey, StateResource } from "#engine/director.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, RESOURCE_TYPES, type TypeUrl, type XdsDelta, type XdsResource } from "#xds/resource.ts";
import { type MeshSettings, type Snapshot, writeSnapshot } from "#xds/snapshot.ts";

export type RelayOptions = {
  readonly node: string;
  /** The roots by which control is believed now: they bind the snapshot to this mesh. */
  readonly roots: () => readonly string[];
  readonly path: string;
  readonly snapshot: Snapshot | null;
  readonly director: Director;
  readonly failed: (error: unknown) => void;
  /** Quiet time before a changed state is written; default 250. */
  readonly settleMilliseconds?: number;
};

export type Relay = {
  readonly from: "none" | "snapshot" | "control";
  readonly resources: number;
  readonly settings: MeshSettings | null;
  /** What is wanted of a resource now, undefined when it is not wanted any more. */
  versionOf(key: StateKey): string | undefined;
  /** Everything that is wanted in force. */
  held(): Iterable<StateResource>;
  delta(delta: XdsDelta): void;
  /** Everything that control knew when the connection was made has been received. */
  synced(): void;
  setSettings(settings: MeshSettings): void;
  /** The engine acknowledged: what is held is in force. */
  applied(): void;
  /** Waits until what is held is on disk. */
  flush(): Promise<void>;
};

/** A burst of changes costs one write; a crash within this time costs nothing but an older start. */
const SETTLE_MS = 250;

const TYPES: Readonly<Record<TypeUrl, ResourceType>> = {
  [ADDRESS_TYPE]: ResourceType.ADDRESS,
  [AUTHORIZATION_TYPE]: ResourceType.AUTHORIZATION,
};

const stateResource = (typeUrl: TypeUrl, { name, version, body }: XdsResource): StateResource => ({
  type: TYPES[typeUrl],
  name,
  version,
  body,
});

export function createRelay(options: RelayOptions): Relay {
  const { node, roots, path, snapshot, director, failed } = options;
  const held = new Map<TypeUrl, Map<string, XdsResource>>(
    RESOURCE_TYPES.map((typeUrl) => [
      typeUrl,
      new Map((snapshot?.resources.get(typeUrl) ?? []).map((resource) => [resource.name, resource])),
    ]),
  );
  let from: Relay["from"] = snapshot === null ? "none" : "snapshot";
  let settings = snapshot?.settings ?? null;
  let timer: NodeJS.Timeout | undefined;
  let writing: Promise<void> = Promise.resolve();
  let dirty = false;

  const of = (typeUrl: TypeUrl): Map<string, XdsResource> => held.get(typeUrl) ?? new Map();
  const everything = (): StateChange => ({
    reset: true,
    upsert: [...held].flatMap(([typeUrl, resources]) => [...resources.values()].map((resource) => stateResource(typeUrl, resource))),
    remove: [],
  });

  if (snapshot !== null) director.setState(everything());

  function delta({ typeUrl, upsert, remove }: XdsDelta): void {
    const resources = of(typeUrl);
    for (const resource of upsert) resources.set(resource.name, resource);
    for (const name of remove) resources.delete(name);
    // Before the first complete state a part of it would take from the engine everything that it does not name.
    if (from === "none") return;
    director.setState({
      reset: false,
      upsert: upsert.map((resource) => stateResource(typeUrl, resource)),
      remove: remove.map((name) => ({ type: TYPES[typeUrl], name })),
    });
    changed();
  }

  function synced(): void {
    if (from === "none") director.setState(everything());
    if (from !== "control") changed();
    from = "control";
  }

  function changed(): void {
    dirty = true;
    timer ??= setTimeout(() => void write(), options.settleMilliseconds ?? SETTLE_MS);
  }

  function write(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    writing = writing.then(async () => {
      if (!dirty || from === "none") return;
      dirty = false;
      const resources = new Map([...held].map(([typeUrl, list]) => [typeUrl, [...list.values()]]));
      try {
        await writeSnapshot(path, { node, roots: roots(), savedAt: new Date(), settings, resources });
      } catch (error) {
        failed(error);
      }
    });
    return writing;
  }

  return {
    get from() {
      return from;
    },
    get resources() {
      return [...held.values()].reduce((sum, { size }) => sum + size, 0);
    },
    get settings() {
      return settings;
    },
    versionOf: ({ type, name }) =>
      [...held]
        .map(([typeUrl, list]) => (TYPES[typeUrl] === type ? list.get(name)?.version : undefined))
        .find((version) => version !== undefined),
    held: () => everything().upsert,
    delta,
    synced,
    setSettings: (next) => {
      settings = next;
      changed();
    },
    applied: () => {
      if (dirty) changed();
    },
    flush: write,
  };
}
