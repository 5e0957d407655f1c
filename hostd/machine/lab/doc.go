// Package lab is a host without GPUs that boots real VMs: a real libvirt and QEMU
// on this machine, with stand-in devices. It is for development, demonstrations
// and tests of everything around the devices: images, seeds, DHCP, consoles, stop
// and start, adoption after a crash, wipes read back byte by byte.
//
// It needs root (namespaces, taps) and the packages of deploy/lab/packages.txt. It
// starts a libvirtd of its own in network and mount namespaces of its own; neither
// a system libvirtd nor the host's network is touched. All of it, VMs included,
// outlives the daemon; [Machine.Shutdown] takes it down and leaves only files in
// Options.Dir.
//
// # What is real and what stands in
//
//   - The drive of a slot is a sparse file, which the guest sees as an NVMe
//     controller with the slot's serial. Libvirt 9 has no model for emulated NVMe,
//     so it goes through qemu:commandline. Its sanitize and format commands are not
//     used: a wipe overwrites the file and reads all of it back, and a wipe policy
//     that demands sanitize or format fails, as on a drive that lacks them.
//   - The GPU is QEMU's edu device, a PCI function with registers and DMA (vendor
//     1234, device 11e8). There is no InfiniBand; the slot has a serial for it.
//   - Cores, NUMA nodes, PCI addresses and IOMMU groups are invented. A guest gets
//     one CPU and Options.MemoryMiB for each slot.
//   - KVM is used when a trial says that firmware runs under it; else QEMU
//     emulates. That /dev/kvm exists says nothing.
//
// # Ready, and what an image must do
//
// A VM is ready when its guest writes the line "ready" to the virtio-serial port
// org.gpuaas.ready.0, at every boot:
//
//	echo ready > /dev/virtio-ports/org.gpuaas.ready.0
//
// An image with cloud-init need not know: the seed's vendor data installs a script
// that does it at the end of every boot. The port works without a network and no
// other guest can write to it. Until a host listens the write blocks, so it belongs
// in the background; nothing is lost while the daemon restarts.
//
// The first sign of life is the DHCP lease. An image must boot by UEFI from its
// NVMe drive, take its address by DHCP, log to the serial port (console=ttyS0) and
// power off when the power button is pressed.
//
// # Start reading
//
// At [New], then life.go and power.go (the life of one VM), then watch.go (what is noticed).
package lab
