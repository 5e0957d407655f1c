package domaintest

import "fmt"

// A process does its work in steps: acts on a host, requests to NATS and Postgres, changes
// of files. Every step of every process is failed and crashed, before it is done and
// after, and the process run again: [Faults] are the runs, [Fault] is what one of them
// meets. It is for tests only.

// Way is how a step goes wrong.
type Way int

// The ways. Who fails lives on and is told that the step is not done; who crashes is dead.
const (
	FailsBefore Way = iota // it is not done
	FailsAfter             // it is done
	CrashBefore
	CrashAfter
	ways
)

func (w Way) String() string {
	return [...]string{"fails before", "fails after", "crash before", "crash after"}[w]
}

// After reports whether the step is done.
func (w Way) After() bool { return w == FailsAfter || w == CrashAfter }

// Crash reports whether the process dies.
func (w Way) Crash() bool { return w == CrashBefore || w == CrashAfter }

// Fault is the one step of a run that goes wrong. Its caller serializes the calls.
type Fault struct {
	Step   int // counted from 0; one that is never done (-1) lets the run pass, counted
	Way    Way
	Seen   int  // steps so far
	Struck bool // it has happened
}

func (f *Fault) String() string { return fmt.Sprintf("%s step %d", f.Way, f.Step) }

// Strikes is asked before each step and after it, and reports whether this is the moment.
// Nothing strikes twice.
func (f *Fault) Strikes(after bool) bool {
	if !after {
		f.Seen++
	}
	if f.Struck || f.Seen-1 != f.Step || f.Way.After() != after {
		return false
	}
	f.Struck = true
	return true
}

// Faults are the faults of a process with so many steps: each step in each way, or, for a
// slice of them, every so many steps in one way each, all ways in turn.
func Faults(steps, slice int) (out []Fault) {
	for at := range steps {
		for w := range ways {
			if slice > 0 && (at%slice != 0 || (at/slice+int(w))%int(ways) != 0) {
				continue
			}
			out = append(out, Fault{Step: at, Way: w})
		}
	}
	return out
}
