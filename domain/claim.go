package domain

import (
	"cmp"
	"slices"
)

// A claim is a time that a host says something happened at. It begins a bill, so it is
// believed only as far as what is known without the host bears it out: a VM runs after
// it was placed and lives after it was started, and what a host reports it reports soon,
// unless it could not. That is in the log: times in which nobody wrote
// (site.writer_started), and in which the host was not heard (host.silent).

const (
	// claimAllowance is how long a report may take where nothing is known to be in its
	// way: hostd sends what nobody acknowledged again after 8 minutes at most, and clocks
	// differ.
	claimAllowance = 10 * Minute
	// gapPause is how long two gaps have to be apart, or they are one: a writer that
	// lives for less takes no reports.
	gapPause = Minute
	// maxOutages is how many outages are remembered, the newest.
	maxOutages = 8
)

// gap is a time in which no report could come.
type gap struct{ from, to Time }

func (g *gap) wire(c *coder) {
	c.time(1, &g.from)
	c.time(2, &g.to)
}

// with is the newest gap when another comes after g: both in one, if hardly anything is
// between them.
func (g gap) with(next gap) gap {
	if g.to != 0 && next.from.Sub(g.to) < gapPause {
		next.from = min(g.from, next.from)
	}
	return next
}

// addOutage remembers that nobody wrote.
func (w *World) addOutage(g gap) {
	if g.from >= g.to {
		return
	}
	if n := len(w.outages); n > 0 {
		if one := w.outages[n-1].with(g); one.from < g.from {
			w.outages[n-1] = one
			return
		}
		if n == maxOutages {
			w.outages = append(w.outages[:0], w.outages[1:]...)
		}
	}
	w.outages = append(w.outages, g)
}

// provenSince is the earliest time that a report of the host can claim which is received
// at `now`: the allowance before it, in which gaps do not count.
func (w *World) provenSince(h *Host, now Time) Time {
	var gaps [maxOutages + 1]gap
	copy(gaps[1:], w.outages)
	gaps[0] = h.away
	if h.Silent != 0 {
		gaps[0] = h.away.with(gap{h.Silent, now})
	}
	slices.SortFunc(gaps[:], func(a, b gap) int { return cmp.Compare(b.to, a.to) })
	t, left := now, claimAllowance
	for _, g := range gaps {
		wait := t.Sub(min(g.to, t))
		if wait > left {
			break
		}
		if g.from < t {
			t, left = g.from, left-wait
		}
	}
	return t.Add(-left)
}

// claimed is the time that is believed of a report about the VM, which is received at
// `now` and claims `at`. The beginning of a bill is not believed to be older than the
// report proves, its end is: that costs the tenant nothing.
func (w *World) claimed(v *VM, kind ReportKind, at, now Time) Time {
	at = min(max(at, v.Placed), now)
	if w.LogicLevel < 2 {
		return at
	}
	if kind != ReportStarted {
		at = max(at, v.Started)
	}
	if kind != ReportStopped && kind != ReportFailed {
		at = max(at, w.provenSince(w.hosts.row(v.host), now))
	}
	return at
}
