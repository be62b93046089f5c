// docs/permissions.md and the manifests say the same: no right without a reason, no reason without a right.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { baseFiles } from "./files.ts";
import { type Manifest, objectsOf } from "./render.ts";

type Rule = { readonly verbs: readonly string[]; readonly resources: readonly string[]; readonly resourceNames?: readonly string[] };
type Container = {
  readonly name: string;
  readonly securityContext: { readonly capabilities: { readonly add?: readonly string[]; readonly drop: readonly string[] } };
  readonly volumeMounts?: readonly { readonly name: string }[];
};
type PodSpec = {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly volumes?: readonly { readonly name: string; readonly hostPath?: { readonly path: string } }[];
};

const COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
const page = readFileSync(join(import.meta.dirname, "../../docs/permissions.md"), "utf8");
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.includes("| because |"))
  .map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
const objects = objectsOf(baseFiles());
const rules = (object: Manifest): Rule[] => (object["rules"] as Rule[] | undefined) ?? [];
const pods = objects
  .filter(({ kind }) => kind === "DaemonSet" || kind === "Deployment")
  .map((object) => (object["spec"] as { template: { spec: PodSpec } }).template.spec);
const containers = pods.flatMap((pod) => [...(pod.initContainers ?? []), ...pod.containers].map((container) => ({ container, pod })));

test("every rule of every role is a row, and every row is a rule", () => {
  const granted = objects
    .filter(({ kind }) => kind === "ClusterRole" || kind === "Role")
    .flatMap((role) =>
      rules(role).map(({ verbs, resources, resourceNames = [] }) => {
        const names = resourceNames.length > 1 ? `${COUNTS[resourceNames.length]} by name` : resourceNames.join(", ");
        return [
          `${role.metadata.name}${role.kind === "Role" ? ", in trackbed-system" : ""}`,
          verbs.join(", "),
          `${resources.join(", ")}${names === "" ? "" : ` (${names})`}`,
        ].join(" | ");
      }),
    );
  const told = rows.filter((row) => row.length === 4 && row[1] !== "nothing").map((row) => row.slice(0, 3).join(" | "));
  assert.deepEqual([...told].sort(), [...granted].sort());
});

test("every capability is a row, and everything else is dropped", () => {
  const added = containers.flatMap(({ container }) =>
    (container.securityContext.capabilities.add ?? []).map((name) => `${container.name} ${name}`),
  );
  const told = rows
    .filter(([, capability]) => /^[A-Z_]+$/.test(capability ?? ""))
    .map(([container, capability]) => `${container} ${capability}`);
  assert.deepEqual([...told].sort(), [...added].sort());
  for (const { container } of containers) assert.deepEqual(container.securityContext.capabilities.drop, ["ALL"], container.name);
});

test("every directory of the host is a row, and the engine sees one", () => {
  const mounted = containers.flatMap(({ container, pod }) =>
    (container.volumeMounts ?? []).flatMap(({ name }) => {
      const path = pod.volumes?.find((volume) => volume.name === name)?.hostPath?.path;
      return path === undefined ? [] : [`${container.name} ${path}`];
    }),
  );
  const told = rows
    .filter(([, path]) => path?.startsWith("/"))
    .flatMap(([names = "", path]) => names.split(", ").map((name) => `${name} ${path}`));
  assert.deepEqual([...told].sort(), [...mounted].sort());
  assert.deepEqual(
    mounted.filter((line) => line.startsWith("engine ")),
    ["engine /run/trackbed"],
  );
});

test("every container is confined, and the engine has no token", () => {
  for (const { container } of containers) {
    const context = container.securityContext as {
      allowPrivilegeEscalation?: boolean;
      readOnlyRootFilesystem?: boolean;
      privileged?: boolean;
    };
    assert.deepEqual(
      [context.allowPrivilegeEscalation, context.readOnlyRootFilesystem, context.privileged],
      [false, true, undefined],
      container.name,
    );
  }
  const engine = pods.find((pod) => pod.containers.some(({ name }) => name === "engine")) as PodSpec & {
    automountServiceAccountToken?: boolean;
  };
  assert.equal(engine.automountServiceAccountToken, false);
  const bound = objects.filter(({ kind }) => kind.endsWith("RoleBinding")).flatMap((binding) => binding["subjects"] as { name: string }[]);
  assert.ok(!bound.some(({ name }) => name === "trackbed-engine"));
});

test("the right to bypass is asked for on every way to write a namespace's annotations", () => {
  type Guard = { readonly matchConstraints: { readonly resourceRules: { resources: string[]; operations: string[] }[] } };
  const guards = objects
    .filter(({ kind, metadata }) => kind === "ValidatingAdmissionPolicy" && metadata.name === "bypass.trackbed.dev")
    .map((policy) => policy["spec"] as Guard);
  assert.deepEqual(
    guards.flatMap(({ matchConstraints }) => matchConstraints.resourceRules.map(({ resources, operations }) => [resources, operations])),
    [
      [
        ["namespaces", "namespaces/status", "namespaces/finalize"],
        ["CREATE", "UPDATE"],
      ],
    ],
    "servers take metadata over with a status too",
  );
});

test("every kind that control may write in any namespace is held to waypoints by a policy that is bound and denies", () => {
  type Spec = {
    readonly failurePolicy: string;
    readonly matchConstraints: { readonly resourceRules: { resources: string[]; operations: string[] }[] };
  };
  const specOf = <T>(kind: string): T => {
    const found = objects.find((object) => object.kind === kind && object.metadata.name === "waypoints.trackbed.dev");
    assert.ok(found !== undefined, kind);
    return found["spec"] as T;
  };
  const policy = specOf<Spec>("ValidatingAdmissionPolicy");
  assert.equal(policy.failurePolicy, "Fail");
  for (const { operations } of policy.matchConstraints.resourceRules) assert.deepEqual(operations, ["CREATE", "UPDATE"]);
  const { validationActions } = specOf<{ validationActions: string[] }>("ValidatingAdmissionPolicyBinding");
  assert.deepEqual(validationActions, ["Deny", "Audit"]);
  const role = objects.find(({ kind, metadata }) => kind === "ClusterRole" && metadata.name === "trackbed-control");
  assert.ok(role !== undefined);
  const written = rules(role)
    .filter(({ verbs, resources, resourceNames }) => {
      const free = resourceNames === undefined || resources.includes("gateways");
      return verbs.includes("create") && free && !["events", "tokenreviews", "subjectaccessreviews"].includes(resources[0] ?? "");
    })
    .flatMap(({ resources }) => resources);
  assert.deepEqual(policy.matchConstraints.resourceRules.flatMap(({ resources }) => resources).sort(), written.sort());
});
