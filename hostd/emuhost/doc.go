// Package emuhost is a whole GPU host in software: a QEMU machine with an IOMMU,
// stand-in GPUs, NVMe drives and an SR-IOV network card, running Debian with
// libvirt, QEMU, Open vSwitch and all that hostd needs. Tests put the real hostd
// binary into it, pull its devices, cut its power, and look at what is left. It needs
// no GPU, no KVM and, once it is built, no root, and touches nothing of the machine it
// runs on. It is for tests only: nothing that is shipped may import it.
//
// `make emuhost-image` builds the image from deploy/emuhost into the cache; [Missing]
// says whether that was done. A test with the build tag lab begins with
//
//	if why := emuhost.Missing(); why != "" {
//		t.Skip("SKIPPED, no host was booted: " + why)
//	}
//	h, err := emuhost.Boot(ctx, emuhost.Options{Dir: t.TempDir()})
//	...
//	defer h.Close()
//	err = h.Service(ctx, emuhost.Libvirt)
//	err = h.CopyIn(ctx, "bin/hostd", "/usr/local/bin/hostd")
//	daemon, err := h.Start(emuhost.Command{Args: []string{"hostd", "run", ...}})
//	out, err := h.Run(ctx, "virsh", "list") // h.Run is a program.Run
//
// A host takes the memory of Options.MemoryMiB and 100 MiB, two cores while it boots,
// and 6 to 9 s from power on to the first command when it has them; on busy cores several times that. A guest
// in it is an emulator in an emulator: started directly the small guest of
// deploy/emuhost/bare is ready in 3 to 10 s, through UEFI from its drive in 10 to 30 s, where Linux
// would take minutes. The emulator has to be QEMU 11: with 10, hosts whose devices come
// and go stood still within minutes (deploy/emuhost/mkqemu.sh). A host that does not come up is
// still switched off and on again, and scripts/test-lab.sh runs a test that failed once
// more and shows both outcomes.
//
// # What is real
//
// The kernel, sysfs, IOMMU groups, vfio-pci and its DMA protection, NVMe commands
// (identify, format, write zeroes, deallocate), SR-IOV, hot-unplugging, NUMA nodes, PCI
// resets by function and bus, udev with Debian's rules, LVM and md that activate what they find,
// libvirt, QEMU, OVMF, swtpm, Open vSwitch in the kernel, nftables, dnsmasq. The root disk
// has a journal and survives power cuts as a disk does: what was flushed is there.
//
// # What stands in
//
//   - GPUs are QEMU's edu (registers, DMA) and ivshmem (a large BAR, whose content
//     survives every reset short of switching the host off). Neither can reset itself by function.
//   - There is no systemd: services are started by [Host.Service] and do not start by
//     themselves after a reboot, nor does hostd. /usr/bin/systemd-run is a stand-in, because LVM's udev
//     rules activate volume groups by it.
//   - libvirt runs VMs as root, without cgroups and security driver. A test of the
//     confinement writes its own /etc/libvirt/qemu.conf.
//   - QEMU's drives take format with every secure-erase setting, whether or not they
//     advertise it, and have no sanitize: a format that works here proves nothing about
//     a crypto erase. One that failed answers "format in progress" for ever.
//   - Names like nvme0 and eth0 change from boot to boot, as on a real host; addresses
//     and serials do not.
//   - The host's network card goes nowhere. Its other one, uplink, is QEMU's user
//     network: TCP and UDP to [Gateway] arrive at this machine's loopback.
//
// # What cannot be shown without hardware
//
// GPU reset quirks and memory scrubbing, NVLink and the fabric manager, InfiniBand
// (GUIDs, PKeys, subnet manager), sanitize and its power-cut behaviour, real secure
// erase, Opal, firmware slots, BARs of 128 GiB, ACS of real switches, confidential VMs,
// and any speed.
//
// # Start reading
//
// At [Boot] in host.go, then topology.go and arguments.go (what is on which bus), agent.go and
// process.go (commands; agent/ is the other end).
package emuhost
