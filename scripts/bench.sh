#!/usr/bin/env bash
# Speed and memory. Every figure stands beside a limit measured in the same run:
# compare the ratios, machines are shared and noisy. Where three runs are affordable
# the figures are their medians. Exits non-zero if a benchmark fails.
set -euo pipefail
cd "$(dirname "$0")/.."

# medians prints one line a benchmark: the median of each of its figures.
medians() {
  awk '
    /^(--- FAIL|FAIL|panic:)/ { print; next }
    /^Benchmark/ && NF >= 4 {
      name = $1; sub(/-[0-9]+$/, "", name)
      if (!(name in seen)) { seen[name] = 1; order[++names] = name }
      for (i = 3; i < NF; i += 2) {
        unit = $(i + 1); key = name SUBSEP unit
        if (!(key in count)) units[name] = units[name] " " unit
        value[key, ++count[key]] = $i + 0
      }
    }
    function median(key,    n, i, j, x, v) {
      n = count[key]
      for (i = 1; i <= n; i++) v[i] = value[key, i]
      for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j-1]; j--) { x = v[j]; v[j] = v[j-1]; v[j-1] = x }
      return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    END {
      for (b = 1; b <= names; b++) {
        name = order[b]; line = sprintf("%-52s", name); n = split(units[name], u, " ")
        for (i = 1; i <= n; i++) line = line sprintf(" %14.6g %s", median(name SUBSEP u[i]), u[i])
        print line
      }
    }'
}

failed=0
# run TITLE COUNT ARGUMENTS...: a failure is said, and the others still run.
run() {
  local title=$1 count=$2 out
  shift 2
  echo "== $title (median of $count)"
  out=$(mktemp)
  if ! go test -run '^$' -timeout 30m -count "$count" "$@" >"$out" 2>&1; then
    failed=1
    tail -40 "$out"
    echo "FAILED: $title"
  elif ! grep -q '^Benchmark' "$out"; then
    failed=1
    echo "FAILED: $title: nothing was measured"
  else
    medians <"$out"
  fi
  rm -f "$out"
}

run "fold, start, memory"        3 -bench 'Fold|Start' -benchtime 3x ./commands/
run "decision loop"              3 -bench 'Loop/(fdatasync|1slot)' -benchtime 50000x ./commands/
run "decision loop, gangs"       3 -bench 'Loop/(fdatasync|gang)' -benchtime 1500x ./commands/
run "log and feed"               3 -bench . -benchtime 1s ./streams/
run "read models"                3 -bench . -benchtime 3x ./projections/
run "REST, log in memory"        3 -bench . -benchtime 3x ./api/
run "REST, whole site"           3 -bench REST -benchtime 1x -pgo=deploy/gpuaas.pgo ./cmd/gpuaas/ # as make build builds it
run "command to receipt"         3 -bench Receipt -benchtime 1x ./cmd/gpuaas/
run "host daemon"                3 -bench . -benchtime 1x ./hostd/...
run "host daemon at idle"        3 -bench IdleHost -benchtime 1x ./cmd/gpuaas/
exit $failed
