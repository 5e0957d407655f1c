package hostd

import (
	"context"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

const publishBatch = 64

// publish hands the journal's reports over, in order, each again until the host's
// placement acknowledges it. It ends with ctx.
func (a *Agent) publish(ctx context.Context) {
	var of domain.JournalID
	sent, resend, backoff := uint64(0), a.o.Limits.Resend, a.o.Limits.Backoff
	for ctx.Err() == nil {
		if id := a.journal.ID(); id != of {
			of, sent = id, 0 // begun anew: everything has another number
		}
		entries := a.journal.Pending(sent, publishBatch)
		if len(entries) == 0 {
			if !a.waitForReports(ctx, resend) && a.journal.Backlog() > 0 {
				sent, resend = 0, min(2*resend, 32*a.o.Limits.Resend)
			} else {
				resend = a.o.Limits.Resend
			}
			continue
		}
		for _, e := range entries {
			sending, cancel := context.WithTimeout(ctx, reportTimeout)
			err := a.o.Link.Report(sending, e.Kind, e.Signed)
			cancel()
			if err != nil {
				if ctx.Err() == nil {
					a.o.Log.Warn("report not handed over, will be tried again", "number", e.Number, "err", err)
				}
				_ = sleep(ctx, backoff)
				backoff = min(2*backoff, lineBackoffMax)
				break
			}
			sent, backoff = e.Number, a.o.Limits.Backoff
		}
	}
}

// renewAfter is how long a host's reports may wait while the site goes on to acknowledge
// another journal of the same host. By then they were sent six times.
const renewAfter = 10 * time.Minute

// unheard is a journal of which nothing was acknowledged, since when, and what commit the
// site was at.
type unheard struct {
	journal domain.JournalID
	since   time.Time
	from    uint64
}

// acknowledge drops the reports that the log has. A report of an earlier journal that was on
// its way for long may have ended this one, before the host heard that it was heard of: then
// nobody will ever acknowledge it, and it begins anew.
func (a *Agent) acknowledge(p *domain.Placement) error {
	renewed, err := a.journal.Acknowledge(p.Journal, p.Acked)
	if err != nil {
		return err
	}
	id, acked := a.journal.Acked()
	now := a.o.Clock()
	switch {
	case renewed, acked > 0, p.Journal.IsZero(), p.Journal == id, a.journal.Backlog() == 0:
		a.unheard = unheard{}
	case a.unheard.journal != id, p.From.N < a.unheard.from: // the log may have lost its end
		a.unheard = unheard{id, now, p.From.N}
	case now.Sub(a.unheard.since) >= renewAfter && p.From.N > a.unheard.from:
		a.o.Log.Warn("the site acknowledges another journal of this host, and nothing of this one: begun anew under another id", "journal", id, "acknowledged", p.Journal)
		return a.journal.Renew()
	}
	return nil
}

// waitForReports reports whether something new came, or was acknowledged, before the
// time was up.
func (a *Agent) waitForReports(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-a.journal.Wake():
		return true
	case <-t.C:
	}
	return false
}
