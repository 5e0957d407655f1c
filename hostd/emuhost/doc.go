// Package emuhost is a whole GPU host in software: a QEMU machine with an IOMMU,
// stand-in GPUs, NVMe drives and an SR-IOV network card, running Debian with
// libvirt, QEMU, Open vSwitch and all that hostd needs. Tests put the real hostd
// binary into it, pull its devices, cut its power, and look at what is left. It
// needs no GPU and no KVM, and touches nothing of the machine it runs on.
//
// [Boot] starts one, [Host.Run] and [Host.Start] run commands in it. The image is
// built by `make emuhost-image` from deploy/emuhost.
package emuhost
