// Package sim runs a whole site in one goroutine, from one seed: the real decide,
// apply, group commit, recovery, plan and fence, against a simulated log, links,
// hosts, clocks, disks, tenants and operators, all of which fail.
//
// The same [Config] gives the same run, event for event, on every machine: there is
// no goroutine, no clock, no I/O, and nothing depends on the order of a map. A
// schedule is a seed's run: so many steps with faults, then the faults cease and
// everything has to come to an end in bounded simulated time.
//
// What is real: domain, commands.Core, commands.Fold, commands.OpenSnapshot,
// commands.Verify, plan.Diff, journal.Seen. What stands in for goroutines and
// I/O, and follows the same rules line by line: process (for commands.Loop and
// streams.Log.Append), host (for hostd.Agent and its journal), machine, placements.
//
// What has to hold is in shadow.go (what the log says, known from events alone),
// machine.go (what really happens to drives and VMs), clients.go (what was promised)
// and end.go (liveness). Faults are in fault.go; a kind that never fires in a batch
// fails the batch, and so does a state in [Marks] that is never seen.
//
// Start reading at sim.go.
package sim
