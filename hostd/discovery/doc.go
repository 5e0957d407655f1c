// Package discovery finds out what a GPU host has and proposes a slot map. It only
// reads: sysfs, procfs, and the first blocks of drives that nobody has. It binds,
// resets and configures nothing.
//
// A look ([Discovery.Discover]) goes through these files in order: the host's
// processors and memory (topology.go), all PCI functions (look.go), what could be a
// slot's GPU, drive or VF and who it is (gpu.go, drive.go, vf.go, identity.go), what
// speaks against it (safe.go, use.go), which belong together (pair.go, shape.go), and
// the map (propose.go).
//
// # What is never proposed
//
// A device with anything against it is listed as unsafe with every reason, and is in
// no slot and no spare: an IOMMU group with members that are not its own functions
// or the bridges above it, or no group at all; a port on its way to the root complex
// that does not isolate (ACS) and that the operator's profile does not vouch for; no
// reset; no NUMA node on a host with several; a drive that is in use, holds the root
// file system, has blocks of other than 512 bytes, several namespaces or several
// controllers; a network function that belongs to the baseboard. What cannot be read
// counts as bad.
//
// # Who a device is
//
// A drive is its serial number as its controller says it, a GPU what its driver says
// (NVIDIA: serial, else UUID), a VF its physical function's GUID or MAC and its index.
// Serial and firmware of a device bound to vfio-pci cannot be read: then what was read
// before counts, if it provably is the same device: the same Device Serial Number in
// config space (unique on this host), or the same boot of the host and the same sysfs
// node, which no other device ever gets in one boot. Otherwise the device has to be
// read anew ([Config.Prove]) or is unsafe. A GPU without any driver is its Device
// Serial Number, or its VPD's. A device with nothing of this, such as a stand-in of
// QEMU's, is unsafe, unless its kind is configured to be known by location
// ([GPU.ByLocation]): such a serial starts with "location:", the map says so, and a
// card that is swapped for another of its kind is not noticed.
//
// What only hardware can show: serials and module ids as nvidia-smi prints them,
// InfiniBand GUIDs, ACS of real switches, huge BARs.
package discovery
