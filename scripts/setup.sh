#!/usr/bin/env bash
# Install what the project needs on Debian or Ubuntu: as root, or with sudo. What
# is there already is left alone, so a second run costs nothing.
# usage: setup.sh build|lab
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "setup: '$*' needs root: run it as root, or install sudo" >&2; exit 1
  fi
}
install() {
  command -v apt-get >/dev/null || { echo "setup: please install: $*" >&2; exit 1; }
  [ -n "${UPDATED:-}" ] || { as_root apt-get update -qq; UPDATED=1; }
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
have_postgres() {
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}
# Any Go from 1.21 on fetches the version that go.mod asks for.
have_go() {
  local v; v=$(go env GOVERSION 2>/dev/null) || return 1
  v=${v#go}; local major=${v%%.*} rest=${v#*.}; local minor=${rest%%[!0-9]*}
  [ "$major" -gt 1 ] || [ "$minor" -ge 21 ]
}
setup_build() {
  local want=()
  command -v gcc >/dev/null || want+=(gcc libc6-dev)
  command -v git >/dev/null || want+=(git)
  command -v curl >/dev/null || want+=(curl)
  [ -e /etc/ssl/certs/ca-certificates.crt ] || want+=(ca-certificates)
  have_postgres || want+=(postgresql)
  if [ "${#want[@]}" -gt 0 ]; then echo "setup: installing ${want[*]}"; install "${want[@]}"; fi
  if ! have_go; then
    echo "setup: installing Go"
    install golang-go || true
    if ! have_go && . /etc/os-release && [ -n "${VERSION_CODENAME:-}" ]; then
      mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -1 | tr -d ' ')
      echo "deb ${mirror:-http://deb.debian.org/debian} $VERSION_CODENAME-backports main" | as_root tee /etc/apt/sources.list.d/gpuaas-backports.list >/dev/null
      UPDATED=; install -t "$VERSION_CODENAME-backports" golang-go
    fi
    have_go || { echo "setup: need Go 1.21 or newer on PATH: https://go.dev/dl" >&2; exit 1; }
  fi
}
setup_lab() {
  if [ "$(id -u)" != 0 ]; then echo "setup: the lab needs root for VMs and networks; its tests will be skipped" >&2; fi
  local missing=()
  while read -r p _; do
    case "$p" in ''|'#'*) continue;; esac
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done < "$here/deploy/lab/packages.txt"
  # one that knows Debian 13, from where the emulated host's QEMU comes
  [ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ] || missing+=(debian-archive-keyring)
  if [ "${#missing[@]}" -gt 0 ]; then echo "setup: installing ${missing[*]}"; install "${missing[@]}"; fi
}
case "${1:-}" in
  build) setup_build;;
  lab) setup_build; setup_lab;;
  *) echo "usage: setup.sh build|lab" >&2; exit 2;;
esac
