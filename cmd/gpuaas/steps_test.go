package main_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
)

var (
	stepsLong  = flag.Bool("steps.long", false, "fail and crash processes at every step, and go on where the last sitting ended")
	stepsFor   = flag.Duration("steps.for", 10*time.Minute, "how long a sitting takes, for each process")
	stepsCache = flag.String("steps.cache", os.TempDir(), "where the count is kept")
)

// stepped is a process of the site, whose every step fails and crashes.
type stepped struct {
	name  string
	slice int    // make test tries every so many steps, in one way each; 0: none
	also  string // and crashes after each step that has this in its name; "": none
	files bool   // its steps are changes of files: it crashes, and nothing fails
	vary  bool   // some of its runs have hardly a step: of a slice's few faults most can come too late
	open  func(t *testing.T, l *line) stage
}

// stage is where a process runs, over and over.
type stage struct {
	again func(t *testing.T)      // makes it as it was before the process; nil: it is
	run   func(t *testing.T) bool // the process, to its end; not ok: it failed or was killed
	judge func(t *testing.T)      // what holds after a clean end
}

// stepTally is how far the long run of one process is.
type stepTally struct {
	Next   int `json:"next"`   // of the faults of one round
	Steps  int `json:"steps"`  // of the process
	Rounds int `json:"rounds"` // of all faults, that passed
	Faults int `json:"faults"` // that struck, in all
}

// stepTries bounds the runs that a process needs to end after one fault.
const stepTries = 4

// stepLate bounds the tries of a slice's fault, each at an earlier step: how many steps a run
// has is up to the machine, and the fault may come too late.
const stepLate = 3

// TestEveryStep has every request to NATS and Postgres, or every change of a file, of each
// process of the site fail before and after it is done, and the process crash before and
// after; run again it comes to a clean end each time.
func TestEveryStep(t *testing.T) {
	t.Parallel()
	for _, p := range steppedProcesses {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			if p.slice == 0 && !*stepsLong {
				t.Skip("only in the long run: -steps.long")
			}
			p.attack(t)
		})
	}
}

func (p stepped) attack(t *testing.T) {
	l := &line{}
	s := p.open(t, l)
	tally, file := stepTally{}, filepath.Join(*stepsCache, "steps."+strings.ReplaceAll(p.name, " ", "-")+".json")
	if *stepsLong {
		if err := domaintest.ReadCount(file, &tally); err != nil {
			t.Fatal(err)
		}
	}
	save := func() {
		if !*stepsLong {
			return
		}
		if err := domaintest.WriteCount(file, tally); err != nil {
			t.Fatal(err)
		}
	}
	steps := p.unharmed(t, s, l)
	tally.Steps = len(steps)
	faults := p.faults(tally.Steps)
	began, late, struck := time.Now(), 0, 0
	for ; tally.Next < len(faults) && (!*stepsLong || time.Since(began) < *stepsFor); tally.Next++ {
		f := faults[tally.Next*stepsApart%len(faults)]
		tries := 1
		if !*stepsLong { // which has a turn for each step
			tries = stepLate
		}
		for range tries {
			if p.one(t, s, l, &f); t.Failed() {
				t.FailNow()
			}
			if f.Struck {
				break
			}
			f.Step /= 2
		}
		if f.Struck {
			struck++
			tally.Faults++
		} else {
			late++
		}
		save()
	}
	if p.also != "" && !*stepsLong {
		l.only = p.also
		for i := range strings.Count(strings.Join(steps, "\n"), p.also) {
			f := domaintest.Fault{Step: i, Way: domaintest.CrashAfter}
			if p.one(t, s, l, &f); t.Failed() {
				t.FailNow()
			}
			struck++
		}
	}
	few := p.vary && !*stepsLong
	if struck == 0 || !p.files && !few && late > len(faults)/4 { // how many changes of files are heard of is up to the machine
		t.Errorf("%d of %d faults came too late", late, late+struck)
	}
	if tally.Next >= len(faults) {
		tally.Next, tally.Rounds = 0, tally.Rounds+1
	}
	save()
	t.Logf("%d faults struck in %v, %d came too late; in all %+v", struck, time.Since(began).Round(time.Millisecond), late, tally)
}

// stepsApart scatters the faults of a sitting over the process; it is a prime.
const stepsApart = 7919

// faults are those that are tried.
func (p stepped) faults(steps int) (out []domaintest.Fault) {
	slice := p.slice
	if *stepsLong {
		slice = 0
	}
	if !p.files {
		return domaintest.Faults(steps, slice)
	}
	for at := 0; at < steps; at += max(slice, 1) {
		out = append(out, domaintest.Fault{Step: at, Way: domaintest.CrashAfter})
	}
	return out
}

// unharmed runs the process, and again after it has ended, and returns its steps.
func (p stepped) unharmed(t *testing.T, s stage, l *line) (steps []string) {
	t.Helper()
	if s.again != nil {
		s.again(t)
	}
	for _, when := range []string{"at first", "repeated"} {
		f := domaintest.Fault{Step: -1}
		l.arm(&f)
		ok := s.run(t)
		if l.over(); !ok || t.Failed() {
			t.Fatalf("it fails %s, without a fault", when)
		}
		if len(l.steps) > len(steps) {
			steps = l.steps
		}
		l.arm(nil)
	}
	s.judge(t)
	if len(steps) < 2 {
		t.Fatalf("only %q: are all seen?", steps)
	}
	return steps
}

// one has the process meet one fault, and runs it until it ends as it should.
func (p stepped) one(t *testing.T, s stage, l *line, f *domaintest.Fault) {
	t.Helper()
	if s.again != nil {
		s.again(t)
	}
	began := time.Now()
	l.arm(f)
	ok := s.run(t)
	l.over()
	what, first := "none", time.Since(began)
	if f.Struck {
		what = l.steps[f.Step]
	}
	l.arm(nil)
	tries := 0
	for ; !ok && tries < stepTries; tries++ {
		ok = s.run(t)
	}
	if !ok {
		t.Errorf("%v, %s: it does not end well after %d more tries", f, what, tries)
		return
	}
	s.judge(t)
	t.Logf("%v, %s: %d more runs, %v, %v with them", f, what, tries, first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}
