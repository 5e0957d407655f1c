// Package guest keeps the VMs of one libvirt host: it remembers what was begun
// with each of them, starts, stops and removes their domains, reads their
// consoles, and notices what happens to them. The machines lab and linux are built
// on it; what they add is where disks, devices and networks come from.
//
// What is remembered of a VM is in DIR/<vm>/state.json, written before and after
// the acts it speaks of. What runs is libvirt's word, looked at anew every half
// second and at every event: a daemon that was killed finds its VMs as they are.
//
// It may not know what a slot is made of, nor touch a drive or a device.
//
// Start reading at [Open], then life.go and power.go (acts), then watch.go (what
// is noticed).
package guest
