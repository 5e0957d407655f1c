#!/bin/bash
# The emulated host's initramfs: modules for its root disk, process 1, and the agent
# of hostd/emuhost/agent. Rebuilt in seconds, so that these are quick to change.
#
# usage: mkstart.sh BASE_DIR OUTPUT_DIR      BASE_DIR has early.tar; writes initrd
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) base=$1 out=$2
work=$(mktemp -d "$out/work.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,dev,proc,sys,run,root,host}
cp "$(command -v busybox)" "$work/bin/busybox"
for a in sh mount mkdir cp insmod switch_root; do ln -s busybox "$work/bin/$a"; done
tar -C "$work" -xf "$base/early.tar"
install -m 755 "$here/init.sh" "$work/init"
install -m 755 "$here/host-init.sh" "$work/host/init"
install -m 755 "$here/prime.sh" "$work/host/prime"
install -m 755 "$here/service.sh" "$work/host/service"
(cd "$here/../.." && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/host/agent" ./hostd/emuhost/agent)
(cd "$work" && find . -print0 | sort -z | cpio --null -o -H newc -R 0:0 --quiet) > "$out/initrd"
