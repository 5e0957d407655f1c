#!/usr/bin/env bash
# Speed and memory. Every figure stands beside a limit measured in the same run:
# compare the ratios, machines are shared and noisy.
set -euo pipefail
cd "$(dirname "$0")/.."
run() { echo "== $1"; shift; go test -run '^$' -timeout 30m "$@" | grep -E '^(Benchmark|FAIL|panic|---)' || true; }
run "fold, start, memory"        -bench 'Fold|Start' -benchtime 3x ./commands/
run "decision loop"              -bench 'Loop/(fdatasync|1slot)' -benchtime 50000x ./commands/
run "decision loop, gangs"       -bench 'Loop/gang' -benchtime 1500x ./commands/
run "log and feed"               -bench . -benchtime 1s ./streams/
run "read models"                -bench . -benchtime 3x ./projections/
run "REST, log in memory"        -bench . -benchtime 3x ./api/
run "REST, whole site"           -bench REST -benchtime 1x ./cmd/gpuaas/
run "host daemon"                -bench . -benchtime 1x ./hostd/...
