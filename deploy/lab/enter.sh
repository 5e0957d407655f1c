#!/bin/sh
# Runs a command inside a running lab's namespaces, where its libvirtd, bridges and
# rules are. Needs root.
#
# usage: enter.sh LAB_DIR [COMMAND...]
#   enter.sh DIR virsh list --all        enter.sh DIR virsh console vm_...
#   enter.sh DIR nft list ruleset        enter.sh DIR ip address
set -e
dir=${1:?usage: enter.sh LAB_DIR [COMMAND...]}; shift
pid=$(cat "$dir/lv/namespace.pid")
grep -qz "^GPUAAS_LAB=" "/proc/$pid/environ" || { echo "enter: no lab runs in $dir" >&2; exit 1; }
[ $# -gt 0 ] || set -- sh
exec nsenter --target "$pid" --net --mount -- "$@"
