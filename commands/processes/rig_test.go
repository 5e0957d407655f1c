package processes_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/hostlink"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// rig is a loop on a real log, with the processes' streams around it.
type rig struct {
	t     *testing.T
	site  *streamstest.Site
	loop  *commands.Loop
	audit *streams.Audit
	admin domain.Actor
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, site: streamstest.New(t, 1)}
	var err error
	if r.loop, err = commands.NewLoop(domain.NewWorld(), commands.Options{Site: string(r.site.Names), Log: r.site.Log()}); err != nil {
		t.Fatal(err)
	}
	r.background(func(ctx context.Context) {
		if err := r.loop.Run(ctx); err != nil {
			t.Errorf("the loop ended: %v", err)
		}
	})
	<-r.loop.Started()
	if r.audit, err = streams.OpenAudit(r.site.Dial(server.Runtime), r.site.Names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.audit.Close)
	r.admin = domaintest.Admin(r.submit, "admin")
	return r
}

// background runs f until the end of the test.
func (r *rig) background(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	r.t.Cleanup(func() { cancel(); wg.Wait() })
}

var ids atomic.Uint64

func (r *rig) submit(a domain.Actor, b domain.CommandBody) []domain.EventBody {
	r.t.Helper()
	e := domain.Entropy(domain.DigestOf(fmt.Appendf(nil, "%d", ids.Add(1))))
	reply := r.loop.Submit(context.Background(), &domain.Command{ID: commands.NewCommandID(time.Now(), e), Actor: a, Body: b})
	if reply.Err != nil {
		r.t.Fatalf("%s: %v", b.CommandType(), reply.Err)
	}
	return reply.Events
}

func (r *rig) deny(d processes.Denied) {
	b, err := json.Marshal(d)
	if err != nil || !r.audit.Record("host", b) {
		r.t.Errorf("not audited: %+v %v", d, err)
	}
}

// denied waits for the audit record of a denial.
func (r *rig) denied(host domain.HostID, code, detail string) {
	r.t.Helper()
	r.eventually("an audit record "+code+" of "+host.String(), func() bool {
		records, _, err := r.audit.Page(streamstest.Context(r.t), 0, 1000, "host")
		if err != nil {
			r.t.Fatal(err)
		}
		for _, x := range records {
			var d processes.Denied
			if err := json.Unmarshal(x.Data, &d); err != nil {
				r.t.Fatal(err)
			}
			if d.Actor == host.String() && d.Code == code && (detail == "" || d.Detail == detail) {
				return true
			}
		}
		return false
	})
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			r.t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// host is an admitted host with a signing key and a way in.
type host struct {
	r       *rig
	id      domain.HostID
	key     ed25519.PrivateKey
	link    *hostlink.Link
	journal domain.JournalID
	n       uint64
}

func (r *rig) newHost(name string) *host {
	r.t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	token := domain.DigestOf([]byte(name))
	h := &host{r: r, key: key, journal: domain.JournalID{1}}
	h.id = r.submit(r.admin, &domain.EnrollHost{Name: name, Rack: "r", TokenID: token})[0].(*domain.HostEnrolled).ID
	r.submit(domain.System, &domain.AdmitHost{TokenID: token, NATSKey: fmt.Sprintf("U%055d", 0), SignKey: pub})
	h.link = r.site.Link(r.site.NewHostAs(h.id))
	return h
}

// next is the host's next report.
func (h *host) next(x domain.Report) *domain.Report {
	h.n++
	x.Host, x.Journal, x.Number, x.Epoch = h.id, h.journal, h.n, 1
	return &x
}

func (h *host) sign(x *domain.Report) []byte {
	b := domain.EncodeReport(x)
	return domain.EncodeSignedReport(&domain.SignedReport{Report: b, Signature: ed25519.Sign(h.key, b)})
}

// send publishes bytes as the host's report.
func (h *host) send(kind domain.ReportKind, b []byte) {
	h.r.t.Helper()
	if err := h.link.Report(streamstest.Context(h.r.t), kind, b); err != nil {
		h.r.t.Fatal(err)
	}
}

// acked is up to which report the world has recorded.
func (h *host) acked() (n uint64) {
	h.r.t.Helper()
	h.r.see(func(w *domain.World) {
		w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(x *domain.Host) {
			if x.ID == h.id {
				n = x.Acked
			}
		})
	})
	return n
}

func (r *rig) see(f func(*domain.World)) {
	r.t.Helper()
	if _, err := r.loop.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { f(w) }); err != nil {
		r.t.Fatal(err)
	}
}
