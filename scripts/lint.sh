#!/usr/bin/env bash
# Linters, pinned, built once into .tools (two to three minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
export GOBIN=$PWD/.tools
tool() { [ -x ".tools/$1" ] || go install "$2"; }
tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
tool gofumpt mvdan.cc/gofumpt@latest
unformatted=$(.tools/gofumpt -l $(git ls-files '*.go' | grep -v _templ.go))
[ -z "$unformatted" ] || { echo "gofumpt would change:"; echo "$unformatted"; exit 1; }
.tools/golangci-lint run ./...
