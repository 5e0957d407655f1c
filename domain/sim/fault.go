package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// Fault is a kind of trouble.
type Fault uint8

// The kinds.
const (
	Crash          Fault = iota // a control-plane process is killed
	CrashAppending              // with a commit on its way
	SecondWriter                // another process begins to write while the first does
	AckLost                     // the log has the commit, its answer never comes
	AppendLost                  // the commit never arrives
	AppendLate                  // it arrives when the writer has long given up
	TornSnapshot
	SnapshotsLost
	LogAway   // nobody reaches the log for a while
	StaleRead // a start reads a log that lacks its newest commits
	ClockJump // beyond what a running writer accepts
	ClockDrift
	ReplyLost
	PlacementLost
	PlacementLate
	PlacementTwice
	ReportLost
	ReportLate
	ReportTwice
	HostCrash  // hostd is killed
	HostReboot // the machine loses power
	HostSilent // the host is cut off
	HostSlow
	JournalLost  // hostd's journal begins anew, with nothing remembered
	JournalTorn  // the newest report is lost in a crash
	StartFails   // a step of bringing a VM up fails
	GuestOff     // a guest powers itself off
	GuestMute    // a guest never says that it is ready
	WipeFails    // and says so
	WipeLies     // not done, and the evidence is wrong in one place
	WipeSlow     // later than its deadline
	DeviceFault  // a device of a slot misbehaves
	DriveSwap    // somebody puts another drive in
	Rogue        // a placement that no commit asks for, with a tenant's VM on a used drive
	TwoDigests   // a placement of a generation that the host knows otherwise
	ProjectorDie // between two transactions, or in one
	LostTail     // the log comes back without commits that were acknowledged
	faultCount
)

var faultNames = [faultCount]string{
	"crash", "crash-appending", "second-writer", "ack-lost", "append-lost", "append-late", "torn-snapshot", "snapshots-lost", "log-away", "stale-read", "clock-jump", "clock-drift",
	"reply-lost", "placement-lost", "placement-late", "placement-twice", "report-lost", "report-late", "report-twice",
	"host-crash", "host-reboot", "host-silent", "host-slow", "journal-lost", "journal-torn", "start-fails", "guest-off", "guest-mute",
	"wipe-fails", "wipe-lies", "wipe-slow", "device-fault", "drive-swap", "rogue", "two-digests", "projector-die", "lost-tail",
}

func (f Fault) String() string { return faultNames[f] }

// rates are how often a kind happens when it is asked for, in 1/1000, at its usual
// strength.
var rates = [faultCount]uint32{
	Crash: 150, CrashAppending: 15, SecondWriter: 120, AckLost: 40, AppendLost: 40, AppendLate: 15, TornSnapshot: 200, SnapshotsLost: 100, LogAway: 60, StaleRead: 150, ClockJump: 80, ClockDrift: 500,
	ReplyLost: 120, PlacementLost: 80, PlacementLate: 100, PlacementTwice: 100, ReportLost: 80, ReportLate: 80, ReportTwice: 80,
	HostCrash: 300, HostReboot: 120, HostSilent: 200, HostSlow: 100, JournalLost: 200, JournalTorn: 500, StartFails: 40, GuestOff: 150, GuestMute: 80,
	WipeFails: 60, WipeLies: 60, WipeSlow: 20, DeviceFault: 100, DriveSwap: 100, Rogue: 40, TwoDigests: 20, ProjectorDie: 200, LostTail: 60,
}

// often is the strength of a kind that happens nearly whenever it is asked for.
const often = 800

// Faults is a set of kinds.
type Faults uint64

func (s Faults) has(f Fault) bool { return s>>f&1 == 1 }

// String lists the kinds, separated by commas.
func (s Faults) String() string {
	var out []string
	for f := range faultCount {
		if s.has(f) {
			out = append(out, f.String())
		}
	}
	return strings.Join(out, ",")
}

// ParseFaults reads what String wrote.
func ParseFaults(text string) (s Faults, err error) {
	for _, word := range strings.Split(text, ",") {
		found := word == ""
		for f := range faultCount {
			if faultNames[f] == word {
				s, found = s|1<<f, true
			}
		}
		if !found {
			return 0, fmt.Errorf("%q is not a kind of fault: want some of %v", word, faultNames)
		}
	}
	return s, nil
}

// dice is all the randomness of a schedule. Every kind of fault, and everybody who
// acts, has a stream of its own, so that a kind can be turned off and the rest of
// the schedule stays much as it was.
type dice struct {
	faults   [faultCount]*rand.Rand
	strength [faultCount]uint32 // of 1000; 0: never in this schedule
	fired    *[faultCount]uint64
	calm     bool

	net, work, tenants, operators, guests, entropy *rand.Rand
}

// newDice draws which faults a schedule has: not all at once, for one hides another.
func newDice(c Config, fired *[faultCount]uint64) *dice {
	stream := uint64(0)
	next := func() *rand.Rand { stream++; return rand.New(rand.NewPCG(c.Seed, stream)) } //nolint:gosec // a seed gives the same run
	d := &dice{fired: fired, net: next(), work: next(), tenants: next(), operators: next(), guests: next(), entropy: next()}
	choice := next()
	for f := range faultCount {
		d.faults[f] = next()
		switch how := choice.Uint32N(10); {
		case how < 4:
		case how < 7:
			d.strength[f] = max(1, rates[f]/3)
		case how < 9:
			d.strength[f] = rates[f]
		default:
			d.strength[f] = min(often, rates[f]*3)
		}
		if c.Often.has(f) {
			d.strength[f] = often
		}
		if c.Off.has(f) {
			d.strength[f] = 0
		}
	}
	return d
}

// happens says whether the fault does, and counts it.
func (d *dice) happens(f Fault) bool {
	if d.strength[f] == 0 || d.calm || d.faults[f].Uint32N(1000) >= d.strength[f] {
		return false
	}
	d.fired[f]++
	return true
}

// between draws a duration.
func between(r *rand.Rand, from, to domain.Duration) domain.Duration {
	return from + domain.Duration(r.Int64N(int64(to-from)+1))
}

// pick draws one of a list.
func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// chance is true n times in 1000.
func chance(r *rand.Rand, n uint32) bool { return r.Uint32N(1000) < n }
