// Binds a server to a Unix socket that only root can reach, also over what a dead process left behind.
import { chmod, rename, rm, stat } from "node:fs/promises";
import type { Server } from "node:net";
import { dirname } from "node:path";
import { makeDirectory } from "#mesh/directory.ts";
import { meshError } from "#mesh/error.ts";

/** The directory that daemon and engine share, 0700: whoever may enter it may decide for every pod of the node. */
export async function privateDirectory(path: string): Promise<void> {
  makeDirectory("--run", path);
  const { mode, uid } = await stat(path);
  if (uid !== process.getuid?.())
    throw meshError("E_DIRECTORY_UNUSABLE", `the directory ${path} (--run) belongs to user ${uid}, not to the one this process runs as`);
  if ((mode & 0o077) !== 0) await chmod(path, 0o700);
}

/**
 * Listens on `path`, mode 0600. The socket is made under a name of this process and then renamed: the path never leads to a socket that does
 * not answer yet, and libuv, which unlinks the name that it bound when the server closes, cannot take away a successor's socket.
 */
export async function listenOn(server: Server, path: string): Promise<void> {
  await privateDirectory(dirname(path));
  const own = `${path}.${process.pid}`;
  await rm(own, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(own, () => {
      server.off("error", reject);
      resolve();
    });
  });
  await chmod(own, 0o600);
  await rename(own, path);
}
