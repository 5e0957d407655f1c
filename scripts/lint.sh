#!/usr/bin/env bash
# Formatting and linters, of one pinned program that is built once into .tools (three minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
version=v2.15.0
lint=.tools/golangci-lint-$version
if [ ! -x "$lint" ]; then
  GOBIN=$PWD/.tools go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
  mv .tools/golangci-lint "$lint"
fi
"$lint" run "$@" ./...
