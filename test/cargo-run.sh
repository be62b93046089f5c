#!/usr/bin/env bash
# Runs what cargo built. Test binaries of an ordinary user run as root of a user namespace that ends with them, because they make network
# namespaces, and only a process with a single thread, which no test binary is, can enter a user namespace by itself.
set -euo pipefail
ENTER=(unshare --user --map-root-user --net --mount --pid --fork --kill-child=SIGKILL --mount-proc --)

case "$1" in
  */deps/*) test=yes ;;
  *) test=no ;; # a program of ours, by `cargo run`
esac
if [ "$test" = no ] || [ "$(id -u)" -eq 0 ]; then exec "$@"; fi
if ! reason=$("${ENTER[@]}" true 2>&1); then
  echo "no user namespace (${reason//$'\n'/; }): tests that need network namespaces will skip; run them as root" >&2
  exec "$@"
fi
# bash stays as init because it reaps orphans.
exec "${ENTER[@]}" bash -c 'ip link set lo up && "$@"; exit $?' trackbed-test "$@"
