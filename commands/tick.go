package commands

import (
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// maxClockJump is how far the wall clock may move against the monotonic one while
// the loop runs.
const maxClockJump = 5 * time.Second

// now reads the clock, and refuses to go on after a jump.
func (l *Loop) now() (time.Time, error) {
	t := l.o.Clock()
	elapsed := t.Sub(l.wall0) // monotonic, if both have it
	wall := t.Round(0).Sub(l.wall0.Round(0))
	if d := wall - elapsed; d > maxClockJump || d < -maxClockJump {
		return t, fmt.Errorf("the wall clock jumped by %v while running: check time synchronisation and restart", d)
	}
	l.wall0 = t
	return t, nil
}

// liveLook is how often a loop whose answers wait for the claim looks again.
const liveLook = 10 * time.Millisecond

// arm sets the timer to the world's next deadline and reports whether it is due.
func (l *Loop) arm(timer *time.Timer, started, unanswered bool) bool {
	wait := time.Hour
	due := false
	if next := l.core.World().NextDeadline(); started && next != 0 {
		if wait = next.Std().Sub(l.o.Clock()); wait <= 0 {
			due, wait = true, time.Hour
		}
	}
	if unanswered {
		wait = min(wait, liveLook)
	}
	timer.Reset(max(wait, time.Millisecond))
	return due
}

// maxTicks is how many ticks go into one group before others have their turn.
const maxTicks = 16

// tick handles deadlines that are due.
func (l *Loop) tick(open *pending) (bool, error) {
	now, err := l.now()
	if err != nil {
		return false, err
	}
	at := domain.TimeOf(now)
	progressed := false
	for range maxTicks {
		next := l.core.World().NextDeadline()
		if next == 0 || next > l.core.Now(at) || l.core.Full() {
			break
		}
		r := l.tickOnce(at)
		if r.Err != nil {
			return progressed, fmt.Errorf("tick: %w", r.Err)
		}
		progressed = true
		for _, e := range r.Events {
			if p, ok := e.(*domain.TimerParked); ok {
				l.poisoned(Poison{What: "tick", Code: "timer.parked", Why: fmt.Sprintf("the deadline %s of %s is parked: %s", p.Kind, p.At, p.Why)})
			}
		}
		open.events = append(open.events, r.Events...)
	}
	return progressed, nil
}

// tickOnce handles what is due. A tick that is refused, or from which nothing
// follows, would be refused again after every restart: the first deadline is tried
// alone, and parked when it is the one.
func (l *Loop) tickOnce(at domain.Time) Reply {
	r := l.decideTick(at, &domain.Tick{})
	if r.Err == nil && len(r.Events) > 0 {
		return r
	}
	if r = l.decideTick(at, &domain.Tick{Limit: 1}); r.Err == nil && len(r.Events) > 0 {
		return r
	}
	why := "nothing follows from it"
	if r.Err != nil {
		if why = r.Err.Code + ": " + r.Err.Message; r.Err.Cause != nil {
			why = r.Err.Cause.Error()
		}
	}
	return l.decideTick(at, &domain.Tick{Park: why})
}

func (l *Loop) decideTick(at domain.Time, t *domain.Tick) Reply {
	if l.refuseTick != nil {
		if err := l.refuseTick(t); err != nil {
			return Reply{Err: err}
		}
	}
	return l.core.Decide(at, l.systemCommand(t))
}
