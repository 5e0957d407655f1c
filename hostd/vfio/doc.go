// Package vfio moves PCI functions between the host's drivers and vfio-pci, and
// proves where they are. [Binder.Give] hands whole IOMMU groups over, [Binder.Prove]
// says that they still are as approved, [Binder.Take] brings a drive back to the
// nvme driver, [Binder.Reset] resets a function, [Binder.MakeVFs] makes virtual
// functions.
//
// A function is named by its full PCI address, which says where it is and not which
// one it is: whoever calls knows the serial, and [Binder.Namespace] finds a drive by
// both. What is approved is a [Set]; a function outside it is never bound, unbound
// or reset, and a group with a foreign member is refused before anything is touched.
//
// Everything is level-driven and idempotent: each call reads where the functions are
// and does what is missing. A call that fails or is killed half way leaves functions
// with driver_override set and perhaps without a driver, where no host driver picks
// them up; repeating it goes on from there. The undo of Give is Take.
//
// It changes the kernel's state only by [Kernel]. A write into sysfs can hang for as
// long as a device does, so every one is bounded, and a function with a write under
// way is not written again.
package vfio
