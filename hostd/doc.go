// Package hostd is the daemon on each GPU host: it makes the host be what its
// placement says (which VMs on which slots, which slots to erase) and reports what
// it found and did, signed, from an on-disk journal.
//
// It is level-driven. A placement is the whole desired state; what exists is
// observed anew before every plan; [plan.Diff] compares the two and says what is
// missing. Nothing is remembered as "half done": after a crash the next daemon
// observes, finds the VMs that run, adopts them and goes on. Stopping hostd stops
// no VM.
//
// What it may not do: execute a placement older than one it has seen, in this life
// or an earlier one (journal.Fence); execute a slot map that it did not propose
// itself; say more about a wipe than the machine did; start a VM on a drive that
// another VM wrote and nobody has verifiably erased since, whatever the placement
// says.
//
// Where to start reading: agent.go (the loop), plan (what to do), chain.go (doing
// it), report.go (saying so), journal (what survives), machine (the seam to the
// hardware).
package hostd
