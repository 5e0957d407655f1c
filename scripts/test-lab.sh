#!/usr/bin/env bash
# Runs the lab's tests, one package after the other. An emulator inside an emulator
# stands still now and then (hostd/emuhost/doc.go): a test that fails is run once more,
# and both outcomes are shown. What fails twice has failed.
set -uo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
packages=(./hostd/vm/ ./hostd/network/ ./hostd/machine/lab/ ./hostd/emuhost/ ./hostd/wipe/ ./hostd/machine/linux/ ./cmd/gpuaas/)
log=$(mktemp); trap 'rm -f "$log"' EXIT
lab() { "$go" test -tags lab -p 1 -count=1 -timeout 30m -v -run "$1" "${@:2}" 2>&1 | tee "$log"; return "${PIPESTATUS[0]}"; }
lab Lab "${packages[@]}" && exit 0
failed=$(sed -n 's/^--- FAIL: \(TestLab[A-Za-z0-9]*\).*/\1/p' "$log" | sort -u | paste -sd'|')
of=$(sed -n 's|^FAIL[[:space:]]*github.com/gpuaas/gpuaas/\([^[:space:]]*\).*|./\1/|p' "$log" | sort -u)
[ -n "$failed" ] && [ -n "$of" ] || exit 1 # it did not build, or a test program died
echo "FAILED ONCE, run again: $failed"
# shellcheck disable=SC2086 # one word a package
lab "^($failed)\$" $of
