#!/bin/bash
# The QEMU that emulates the host: 11 or newer. Up to 10 a processor whose neighbour had
# a device's memory unmapped could write to the wrong device, and disks stood still or QEMU
# ended ("iotlb_to_section: Assertion"); and the igb network card (SR-IOV) came after
# Debian 12's. Unpacked with its libraries, not installed.
#
# usage: mkqemu.sh OUTPUT_DIR      writes qemu/ there
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd) out=${1:?usage: mkqemu.sh OUTPUT_DIR}
mirror=$("$here/mirror.sh")
mmdebstrap --mode=root --variant=extract --include=qemu-system-x86,qemu-utils \
  --aptopt='APT::Sandbox::User "root"' --aptopt='APT::Install-Recommends "false"' \
  --aptopt='APT::Default-Release "trixie-backports"' \
  --quiet trixie "$out/qemu" "deb $mirror trixie main" "deb $mirror trixie-backports main"
ln -sfn usr/lib "$out/qemu/lib"; ln -sfn usr/lib64 "$out/qemu/lib64"
rm -rf "$out"/qemu/var "$out"/qemu/usr/share/{doc,man,locale}
