#!/bin/bash
# Pid 1 of one machine of the test cluster: makes its namespaces a machine of their own, then runs cp.sh or node.sh, whose programs it keeps
# running. Killing it takes everything on the machine along, mounts included, like a pulled plug. Its environment is disk.ts, environment().
set -eu
main() { # a function, so that bash has read all of it: this file may change while it runs
  here=$(dirname "$0")
  hostname "$MACHINE"
  mount --make-rprivate /
  mount -t proc proc /proc
  # Into our cgroups; in the v2 tree too, where a group without controllers may hold processes beside its children.
  for group in /sys/fs/cgroup/*/"$CLUSTER/$MACHINE"; do echo $$ >"$group/cgroup.procs"; done
  . "$here/$1.sh"
  wait
}

# keep NAME CMD...: runs it, and again whenever it ends, unless program.ts holds it
keep() {
  local name=$1
  shift
  while :; do
    if [[ ! -e $LOGS/hold-$MACHINE-$name ]]; then
      "$@" >>"$LOGS/$MACHINE-$name.log" 2>&1 </dev/null || true
      echo "$(date -u +%T) $name ended" >>"$LOGS/$MACHINE-$name.log"
    fi
    sleep 0.5
  done
}
main "$@"
