#!/bin/bash
# Runs every fuzz target of the tree, or of some folders: fuzz.sh 1m [api hostd ...].
# An input that fails is kept in its package's testdata/fuzz, and every test run repeats it.
set -uo pipefail
cd "$(dirname "$0")/.."
each=${1:-1m}
shift
for folder in "$@"; do
  if [ ! -d "$folder" ]; then
    echo "$0: there is no folder $folder" >&2
    exit 1
  elif ! grep -qr --include='*_test.go' '^func Fuzz' "$folder"; then
    echo "$0: there is no fuzz target in $folder" >&2
    exit 1
  fi
done
failed=0
for file in $(grep -lr --include='*_test.go' '^func Fuzz' "${@:-.}" | sort); do
  for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file"); do
    name="$(dirname "$file") $target"
    if out=$(${GO:-go} test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$each" 2>&1); then
      echo "$name: $(grep -o 'elapsed: .*' <<<"$out" | tail -1)"
    else
      echo "$out" | tail -40
      echo "$name: FAILED"
      failed=1
    fi
  done
done
exit $failed
