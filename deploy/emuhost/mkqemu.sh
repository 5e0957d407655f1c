#!/bin/bash
# The QEMU that emulates the host: 10 or newer, because the igb network card (SR-IOV)
# came after Debian 12's. Unpacked with its libraries, not installed.
#
# usage: mkqemu.sh OUTPUT_DIR      writes qemu/ there
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd) out=${1:?usage: mkqemu.sh OUTPUT_DIR}
mirror=$("$here/mirror.sh")
mmdebstrap --mode=root --variant=extract --include=qemu-system-x86,qemu-utils \
  --aptopt='APT::Sandbox::User "root"' --aptopt='APT::Install-Recommends "false"' \
  --aptopt='APT::Default-Release "bookworm-backports"' \
  --quiet bookworm "$out/qemu" "deb $mirror bookworm main" "deb $mirror bookworm-backports main"
rm -rf "$out"/qemu/var "$out"/qemu/usr/share/{doc,man,locale}
