#!/usr/bin/env bash
# Installs the Debian packages listed in the file given, when root; says what is missing otherwise. Services are not started.
set -euo pipefail
wanted=$(grep -vE '^\s*(#|$)' "$1")
missing=()
for package in $wanted; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "missing Debian packages; as root run: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}"
# invoke-rc.d starts nothing in this runlevel: we want the programs, not their services.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
