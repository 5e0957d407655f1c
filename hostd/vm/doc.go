// Package vm runs virtual machines through libvirt: it renders a [Spec] into
// domain XML, talks to one libvirtd over its socket, and turns libvirt's events
// into [Event]. It may not touch disks, networks, files or sysfs: devices are bound
// and interfaces plugged in by others. Start reading at [Spec.XML], then [Host].
//
// One builder renders every domain: those of the lab, those with real slots passed
// through ([Passthrough]), and the small ones of the emulated host, which are the
// latter without KVM and, for quick tests, with a kernel instead of firmware.
//
// Every device has a fixed address in the guest. What all domains have is on the
// root ports 1 to 4 (devices.go); slots come after them (layout.go says how). A VM
// that is passed real devices keeps its machine until it is released: see [Pins].
//
// Emulated NVMe drives and stand-in accelerators are passed as qemu:commandline
// arguments: libvirt 9 (Debian 12) has no NVMe controller model of its own (it came
// with libvirt 11.5) and none at all for QEMU's edu device. They sit at fixed
// addresses on the root bus: accelerators from 0x08, drives from 0x10.
package vm
