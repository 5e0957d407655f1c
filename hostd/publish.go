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
