// Who we are to the API server: the mounted ServiceAccount of a pod, or a kubeconfig. Kept fresh, because both change under a running process.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import { Agent, type Dispatcher } from "undici";
import { explainError, meshError } from "#mesh/error.ts";

export type Passport = { readonly headers: Readonly<Record<string, string>>; readonly dispatcher: Dispatcher };

export type Credentials = {
  /** Origin and base path of the server, without a slash at its end. */
  readonly server: string;
  /** For one request. */
  passport(): Promise<Passport>;
  /** The server did not accept it: what was remembered is read again for the next request. */
  renew(): void;
  close(): Promise<void>;
};

/** Tokens are replaced by the kubelet long before they end; a minute is what client-go allows. */
const REREAD_MILLISECONDS = 60_000;
const CONNECT_MILLISECONDS = 10_000;
/** Keep-alive probes find a dead load balancer under a watch that is quiet by right. */
const KEEPALIVE_MILLISECONDS = 30_000;
const MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

export type InClusterOptions = { readonly mount?: string; readonly environment?: Readonly<Record<string, string | undefined>> };

/** Our own few lines instead of the client library's: loading it costs a daemon 20 MB on each node. */
export function inClusterCredentials(options: InClusterOptions = {}): Credentials {
  const { mount = MOUNT, environment = process.env } = options;
  const { KUBERNETES_SERVICE_HOST: host = "", KUBERNETES_SERVICE_PORT: port = "" } = environment;
  if (host === "" || port === "")
    throw meshError("E_API_CREDENTIALS", "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is not a pod");
  let held: { readonly passport: Passport; readonly ca: string; readonly until: number } | null = null;

  function read(): NonNullable<typeof held> {
    try {
      const [token, ca] = [readFileSync(join(mount, "token"), "utf8").trim(), readFileSync(join(mount, "ca.crt"), "utf8")];
      if (token === "") throw new Error(`${join(mount, "token")} is empty`);
      const kept = held?.ca === ca ? held.passport.dispatcher : undefined;
      if (kept === undefined && held !== null) retire(held.passport.dispatcher);
      const passport = { headers: { authorization: `Bearer ${token}` }, dispatcher: kept ?? agent({ ca }) };
      return { passport, ca, until: performance.now() + REREAD_MILLISECONDS };
    } catch (cause) {
      throw meshError("E_API_CREDENTIALS", `the ServiceAccount mounted at ${mount} cannot be used`, cause);
    }
  }

  return {
    server: `https://${isIPv6(host) ? `[${host}]` : host}:${port}`,
    passport: async () => {
      if (held === null || performance.now() >= held.until) held = read();
      return held.passport;
    },
    renew: () => {
      if (held !== null) held = { ...held, until: 0 };
    },
    close: async () => held?.passport.dispatcher.destroy(),
  };
}

/** Whatever a kubeconfig can say, read by the Kubernetes client; only asked for by people and tests, so it is loaded only then. */
export async function kubeconfigCredentials(file: string, context: string | null = null): Promise<Credentials> {
  const { HttpMethod, KubeConfig, RequestContext } = await import("@kubernetes/client-node");
  let held: { readonly passport: Passport; readonly key: string; readonly until: number } | null = null;

  function load() {
    const config = new KubeConfig();
    try {
      config.loadFromFile(file);
    } catch (cause) {
      throw meshError("E_API_CREDENTIALS", `the kubeconfig ${file} cannot be read`, cause);
    }
    if (context !== null && config.getContextObject(context) === null)
      throw meshError("E_API_CREDENTIALS", `the kubeconfig ${file} has no context ${JSON.stringify(context)}`);
    if (context !== null) config.setCurrentContext(context);
    const cluster = config.getCurrentCluster();
    if (cluster === null || !URL.canParse(cluster.server))
      throw meshError("E_API_CREDENTIALS", `the kubeconfig ${file} has no current context with the URL of a cluster`);
    return { config, server: cluster.server.replace(/\/+$/, "") };
  }

  const first = load();

  async function read(): Promise<NonNullable<typeof held>> {
    const { config, server } = load();
    const request = new RequestContext(server, HttpMethod.GET);
    try {
      await config.applySecurityAuthentication(request);
    } catch (cause) {
      throw meshError("E_API_CREDENTIALS", `the kubeconfig ${file} gives no credentials`, cause);
    }
    const { ca, cert, key: privateKey } = (await tlsOf(config)) as Record<string, unknown>;
    const key = createHash("sha256")
      .update(JSON.stringify([ca, cert, privateKey].map(String)))
      .digest("base64");
    // The client makes a new pool for each request: keep one as long as what it was made from.
    const fresh = request.getDispatcher();
    const same = held?.key === key ? held.passport.dispatcher : undefined;
    if (same !== undefined && fresh !== undefined) retire(fresh);
    else if (held !== null) retire(held.passport.dispatcher);
    const dispatcher = same ?? fresh ?? agent({});
    return { passport: { headers: request.getHeaders(), dispatcher }, key, until: performance.now() + REREAD_MILLISECONDS };
  }

  const tlsOf = async (config: InstanceType<typeof KubeConfig>): Promise<object> => {
    const options = {};
    await config.applyToHTTPSOptions(options);
    return options;
  };

  return {
    server: first.server,
    passport: async () => {
      if (held === null || performance.now() >= held.until) held = await read();
      return held.passport;
    },
    renew: () => {
      if (held !== null) held = { ...held, until: 0 };
    },
    close: async () => held?.passport.dispatcher.destroy(),
  };
}

const agent = (tls: { readonly ca?: string }): Agent =>
  new Agent({ connect: { ...tls, timeout: CONNECT_MILLISECONDS, keepAliveInitialDelay: KEEPALIVE_MILLISECONDS }, pipelining: 1 });

/** Requests that it carries go on; watches end by themselves within minutes. */
function retire(dispatcher: Dispatcher): void {
  dispatcher.close().catch((error: unknown) => process.emitWarning(`an old connection pool did not close: ${explainError(error)}`));
}
