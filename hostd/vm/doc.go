// Package vm runs virtual machines through libvirt: it renders a [Spec] into
// domain XML, talks to one libvirtd over its socket, and turns libvirt's events
// into [Event]. It knows nothing of slots, leases or placements; it may not touch
// disks, networks or files. Start reading at [Spec.XML], then [Host].
//
// Emulated NVMe drives and stand-in accelerators are passed as qemu:commandline
// arguments: libvirt 9 (Debian 12) has no NVMe controller model of its own (it came
// with libvirt 11.5) and none at all for QEMU's edu device. They sit at fixed
// addresses on the root bus (accelerators from 0x08, drives from 0x10), which
// libvirt leaves free: it numbers its root ports from 0x01 and puts eight of them
// into one address.
package vm
