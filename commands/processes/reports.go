package processes

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// Reports turns host reports into commands. The host is who the credential says;
// its signature is verified here, what it says is judged by the domain.
type Reports struct {
	Loop  Loop
	Keys  func(domain.HostID) (commands.HostKeys, bool)
	Audit func(Denied)
	Clock func() time.Time

	parked atomic.Uint64

	mu      sync.Mutex
	waiting map[domain.HostID]map[uint64]time.Time // numbers out of order, and since when
}

// reportTimeout bounds one report's way through the loop.
const reportTimeout = 10 * time.Second

const (
	// maxDeliveries is how often a report is tried whose decision fails inside.
	maxDeliveries = 5
	// maxOutOfOrder is how often one waits for those before it, after which the host's
	// journal sends it again: for a minute, since a report whose reader died, with the
	// writer that it was, is handed out again after half of one.
	maxOutOfOrder = 7
	// maxWaiting bounds the reports of one host that wait so. All hosts' wait in one
	// stream, whose reader takes a bounded number at a time.
	maxWaiting = 64
	// waitingFor is when one that waited, and was settled by another process, counts no
	// more.
	waitingFor = 2 * time.Minute
)

// Parked counts the reports that were recorded without being judged, because that
// failed inside: a bug, alarm on any.
func (r *Reports) Parked() uint64 { return r.parked.Load() }

// Handle decides one report. An error asks for it to be delivered again. A report that
// makes this process panic is not: it would do so again.
func (r *Reports) Handle(ctx context.Context, host domain.HostID, data []byte, delivery uint64) (err error) {
	refuse := func(code, detail string) error {
		r.Audit(Denied{Actor: host.String(), Action: "host.report", Code: code, Detail: detail})
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			r.parked.Add(1)
			r.Audit(Denied{Actor: host.String(), Action: "host.report", Code: "internal", Detail: fmt.Sprint(p)})
			err = nil
		}
	}()
	signed, err := domain.DecodeSignedReport(data)
	if err != nil {
		return refuse("report.malformed", err.Error())
	}
	keys, ok := r.Keys(host)
	if !ok {
		return refuse("host.unknown", "")
	}
	if len(keys.Sign) != ed25519.PublicKeySize || !ed25519.Verify(keys.Sign, signed.Report, signed.Signature) {
		return refuse("report.bad_signature", "")
	}
	defer func() {
		if err == nil {
			r.settled(host, signed)
		}
	}()
	reply := r.submit(ctx, host, data, &domain.RecordReport{Host: host, Report: signed.Report, Signature: signed.Signature})
	switch {
	case reply.Err == nil:
	case reply.Err.Code == "report.out_of_order" && (delivery >= maxOutOfOrder || !r.mayWait(host, signed)):
		return refuse(reply.Err.Code, reply.Err.Message)
	case reply.Err.Kind == domain.Unavailable, failedInside(reply.Err) && delivery < maxDeliveries:
		return reply.Err
	case failedInside(reply.Err):
		// The next report of this host is only taken after this one: it is recorded as
		// refused, and the host goes on.
		why := reply.Err.Code
		if reply = r.submit(ctx, host, data, &domain.RecordReport{Host: host, Report: signed.Report, Signature: signed.Signature, Refused: why}); reply.Err != nil {
			return reply.Err
		}
		r.parked.Add(1)
	default:
		return refuse(reply.Err.Code, reply.Err.Message)
	}
	for _, e := range reply.Events {
		if done, ok := e.(*domain.HostReported); ok && done.Refused != "" {
			return refuse(done.Refused, fmt.Sprintf("%s report %d", done.Kind, done.Number))
		}
	}
	return nil
}

// mayWait reports whether a report out of order may wait for those before it.
func (r *Reports) mayWait(host domain.HostID, signed *domain.SignedReport) bool {
	x, err := domain.DecodeReport(signed.Report)
	if err != nil {
		return false
	}
	now := r.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.waiting[host]
	if _, already := of[x.Number]; already {
		return true
	}
	maps.DeleteFunc(of, func(_ uint64, since time.Time) bool { return now.Sub(since) > waitingFor })
	if len(of) >= maxWaiting {
		return false
	}
	if of == nil {
		if r.waiting == nil {
			r.waiting = map[domain.HostID]map[uint64]time.Time{}
		}
		of = map[uint64]time.Time{}
		r.waiting[host] = of
	}
	of[x.Number] = now
	return true
}

// settled ends a report's wait.
func (r *Reports) settled(host domain.HostID, signed *domain.SignedReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.waiting[host]
	if len(of) == 0 {
		return
	}
	if x, err := domain.DecodeReport(signed.Report); err == nil {
		delete(of, x.Number)
	}
	if len(of) == 0 {
		delete(r.waiting, host)
	}
}

// failedInside reports whether the report is readable and in its turn, and could not
// be decided all the same.
func failedInside(err *domain.Error) bool {
	return err.Kind == domain.Internal || err.Code == "decision.too_large"
}

func (r *Reports) submit(ctx context.Context, host domain.HostID, data []byte, report *domain.RecordReport) commands.Reply {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return r.Loop.Submit(ctx, &domain.Command{
		ID:    commands.NewCommandID(r.Clock(), domain.Entropy(domain.DigestOf(data))),
		Actor: domain.Actor{Kind: domain.ActorHost, Host: host}, Body: report,
	})
}
