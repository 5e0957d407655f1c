#!/usr/bin/env bash
# Runs the lab's tests, one more side by side than there are cores, since they also wait,
# each part's output in one piece when it has ended. A test that fails is run once more, alone, and both
# outcomes are shown: emulated hosts on a busy machine can miss a test's patience. What
# fails twice has failed. Tests called TestLabLong are of make test-long.
set -uo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
parts=( # package, which of its tests, which not; the longest first
  "cmd/gpuaas FaultyHost -"
  "cmd/gpuaas . FaultyHost"
  "hostd/machine/lab . -"
  "hostd/vm . -"
  "hostd/wipe . -"
  "hostd/network . -"
)
logs=$(mktemp -d); trap 'rm -rf "$logs"; kill $(jobs -p) 2>/dev/null' EXIT
lab() { "$go" test -tags lab -count=1 -timeout 30m -v "$@" 2>&1; }
part() { # NUMBER
  read -r package only never <<<"${parts[$1]}"
  if [ "$never" = - ]; then never=; else never="|$never"; fi
  lab -run "TestLab.*$only" -skip "TestLabLong$never" "./$package" >"$logs/$1"
  echo $? >"$logs/$1.rc"
  cat "$logs/$1"
}
lanes=$(($(nproc) + 1)); lanes=$((lanes > 4 ? 4 : lanes))
for n in "${!parts[@]}"; do
  while [ "$(jobs -pr | wc -l)" -ge "$lanes" ]; do wait -n; done
  part "$n" &
done
wait
bad=0
for n in "${!parts[@]}"; do
  [ "$(cat "$logs/$n.rc")" = 0 ] && continue
  read -r package _ <<<"${parts[n]}"
  failed=$(sed -n 's/^--- FAIL: \(TestLab[A-Za-z0-9]*\).*/\1/p' "$logs/$n" | sort -u | paste -sd'|')
  if [ -z "$failed" ]; then echo "$package did not build, or its test program died"; bad=1; continue; fi
  echo "FAILED ONCE, run again: $failed of $package"
  lab -run "^($failed)\$" "./$package" || bad=1
done
exit "$bad"
