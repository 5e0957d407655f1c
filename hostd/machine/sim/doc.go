// Package sim is a host in memory: one GPU server with stand-in GPUs, drives and
// InfiniBand functions, whose VMs are timers. Thousands fit in one process.
//
// It is strict where a real machine is dangerous. Starting a VM on a drive with
// another VM's data, wiping under a running VM, starting what was not prepared: each
// is refused and kept in [Machine.Violations], which tests require to be empty.
//
// A host's identity (serials, VF GUIDs, addresses) follows from its seed alone.
// With a state file its VMs outlive the process, as real ones do. A script of
// [Fault] makes it slow, broken, silent, or a liar.
//
// Where to start reading: sim.go; map.go is the hardware, fault.go the script.
package sim
