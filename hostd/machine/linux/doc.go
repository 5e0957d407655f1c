// Package linux is a real GPU host: slots of real devices, handed to VMs by
// vfio-pci. It puts together discovery, vfio, nvme and wipe (devices), image and
// guest (what runs on them), network.
//
// # The host never interprets what a tenant wrote
//
// A slot's functions are with vfio-pci all the time, and with driver_override set, so
// that no driver of the host takes them. Only a drive leaves: to the kernel's nvme
// driver while an image is written or while it is erased, found by its PCI address
// and its serial and never by a name, and taken exclusively. Kernel and udev see such
// a drive for that time; that nothing of user space reads it is said by the files in
// deploy/hostd, and [Machine.Blind] finds out whether it is so.
//
// # One VM, from disk to start
//
// [Machine.PrepareDisk] refuses what cannot be right before it touches a device: an
// image that is too large or names other files, user data that is too large. Then it
// takes the boot drive to nvme, writes and compares the image, and hands all functions
// over. [Machine.Start] proves again that every function of every IOMMU group is
// approved and with vfio-pci. What was done is found by looking, so each step can be
// repeated after a crash at any moment; [Machine.Remove] is the undo of all of them but
// for the data, which is [Machine.Wipe]'s.
//
// After a reboot of the host nothing is bound, and names and perhaps addresses are
// others: each drive's serial is read again before it is handed to the VM that had it.
//
// # What is not here yet
//
// Tenant networks beyond a NAT with DHCP, InfiniBand partitions and NVLink
// partitions: a virtual function's link stays down until a network says otherwise.
//
// Start reading at [New], then disk.go, hold.go and life.go.
package linux
