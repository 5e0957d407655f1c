package sim

import "fmt"

// Mark is a state that a batch of schedules has to see at least once: what is never
// seen is not tested.
type Mark uint8

// The marks.
const (
	AppendUnknown    Mark = iota // a writer gave up on an append
	LandedAfterDeath             // an append that landed when its writer was dead
	Deposed                      // a writer found another's commit in its place
	Settled                      // a repeated append found itself in the log
	FromSnapshot                 // a start from a snapshot
	SnapshotRefused              // one that was damaged, or ahead of the log
	FullGroup                    // many decisions in one commit
	Repeated                     // a command got its recorded answer
	RepeatedKey                  // by its Idempotency-Key
	Expired                      // a command's id was too old
	Gang
	WholeHost // eight slots for one VM
	Refused
	NoCapacity
	NoFunds
	PastDue
	SuspendedTenant
	Stopped
	Restarted
	Rebooted
	Unreachable
	LostVM // its host lost power under it, and starts it again
	PoweredOff
	Wiped
	Quarantined
	Condemned
	Rewiped
	LateWipe
	Retired
	AmendedMap
	Owed
	Discharged
	StalePlacement
	ConflictPlacement
	RefusedByHost // a VM that a host would not start
	Adopted
	UnknownDrive // a host with a new journal takes a drive for used
	RenewedJournal
	RepeatedReport
	RefusedReport
	LatePrice
	Captured
	Accrued
	KeyRevoked
	QuotaHit
	Stale         // a read of a log without its tail was fenced
	StartRefused  // a start on a log that lacks what was made from it
	NotedAhead    // a host that knows of more than the log was noticed
	ForkedCommit  // the site went on with a log that had lost its end, before anybody noticed
	Outrun        // a host noticed that the log had gone on without its end
	Passed        // a host could not know it, and followed
	EpochOpened   // by two operators
	EpochFinished // asked for again after an interruption
	Reconciled    // a host accounted for itself
	UnknownVM     // it had a VM that the log did not know
	NotOnHost     // a VM of the log's was gone
	UsedSince     // a slot was used in the lost tail, and is wiped again
	MapDiffers    // a host's map was amended in the lost tail
	Destroyed     // an operator decided on an unknown VM
	markCount
)

var markNames = [markCount]string{
	"append-unknown", "landed-after-death", "deposed", "settled", "from-snapshot", "snapshot-refused", "full-group", "repeated", "repeated-key", "expired",
	"gang", "whole-host", "refused", "no-capacity", "no-funds", "past-due", "suspended", "stopped", "restarted", "rebooted", "unreachable", "lost-vm", "powered-off",
	"wiped", "quarantined", "condemned", "rewiped", "late-wipe", "retired", "amended-map", "owed", "discharged", "stale-placement", "conflict-placement", "refused-by-host",
	"adopted", "unknown-drive", "renewed-journal", "repeated-report", "refused-report", "late-price", "captured", "accrued", "key-revoked", "quota-hit", "stale",
	"start-refused", "noted-ahead", "forked-commit", "outrun", "passed", "epoch-opened", "epoch-finished", "reconciled", "unknown-vm", "not-on-host", "used-since", "map-differs", "destroyed",
}

func (m Mark) String() string { return markNames[m] }

// Seen counts what happened in a schedule, or in many.
type Seen struct {
	Faults [faultCount]uint64
	Marks  [markCount]uint64
}

func (s *Seen) mark(m Mark) { s.Marks[m]++ }

// Add adds another's counts.
func (s *Seen) Add(o *Seen) {
	for i, n := range o.Faults {
		s.Faults[i] += n
	}
	for i, n := range o.Marks {
		s.Marks[i] += n
	}
}

// Never lists the kinds of faults and the states that did not occur.
func (s *Seen) Never() (out []string) {
	for f, n := range s.Faults {
		if n == 0 {
			out = append(out, fmt.Sprintf("fault %s", Fault(f)))
		}
	}
	for m, n := range s.Marks {
		if n == 0 {
			out = append(out, fmt.Sprintf("state %s", Mark(m)))
		}
	}
	return out
}
