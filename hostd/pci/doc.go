// Package pci reads what the kernel says of PCI devices: [Sysfs.Device] is one
// function with its ids, driver, IOMMU group, resets, BARs, virtual functions and
// the ports between it and its root complex.
//
// A device is named by its full [Address], whose domain is never left out. An
// address says where a device is, not which one it is: it changes between boots.
//
// The package only reads, and believes nothing: what cannot be read or makes no
// sense is an error that names the file, or is said to be unknown. Unknown is never
// safe: see [ACS.Isolates].
package pci
