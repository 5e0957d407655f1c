package commands

import "github.com/gpuaas/gpuaas/domain"

// Hold makes the loop stand still for a reason: nothing is decided any more, for
// nobody, no deadline is handled, and once what was decided before is durable
// nothing is appended. Questions are answered. With nil it goes on.
func (l *Loop) Hold(why *domain.Error) {
	l.held.Store(why)
	l.q.rouse()
}

// Held is why the loop stands still; nil if it does not.
func (l *Loop) Held() *domain.Error { return l.held.Load() }

// goOn looks whether the loop has to stand still. When it goes on again it begins a
// new term, as a start does: the time in which nobody wrote is in the log, and the
// deadlines of hosts and wipes have it back.
func (l *Loop) goOn(open *pending, started bool) error {
	why := l.held.Load()
	if why == nil && l.still != nil && started {
		if l.core.Full() {
			return nil // after this group
		}
		if err := l.startWriter(open); err != nil {
			return err
		}
	}
	l.still = why
	return nil
}
