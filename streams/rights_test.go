package streams_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// watched is a connection whose permission violations are collected.
type watched struct {
	nc     *nats.Conn
	denied chan string
}

func watchErrors(open func(...nats.Option) *nats.Conn) *watched {
	w := &watched{denied: make(chan string, 1000)}
	w.nc = open(nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			w.denied <- err.Error()
		}
	}))
	return w
}

// refused tells whether the server denied what do did: it does something that is
// surely denied after it, and sees which denial comes first.
func (w *watched) refused(t *testing.T, do func() error) bool {
	t.Helper()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	if err := w.nc.Publish("surely.denied", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-w.denied:
		if strings.Contains(d, "surely.denied") {
			return false
		}
		<-w.denied // the one of the mark
		return true
	case <-time.After(time.Minute):
		t.Fatal("not even the mark was denied")
		return false
	}
}

func (w *watched) publish(subject string) func() error {
	return func() error { return w.nc.Publish(subject, []byte("{}")) }
}

func (w *watched) subscribe(subject string) func() error {
	return func() error { _, err := w.nc.SubscribeSync(subject); return err }
}

// TestHostRights is the whole matrix of what a host may do, and what not even a
// host that was broken into can do.
func TestHostRights(t *testing.T) { t.Parallel(); each(t, hostRights) }

func hostRights(t *testing.T, s *streamstest.Site) {
	l := s.Log()
	var c streamstest.Commits
	fill(t, l, &c, 3, 1)
	me, other := s.NewHost(1), s.NewHost(2)
	w := watchErrors(func(o ...nats.Option) *nats.Conn { return s.Raw(me, o...) })
	n, my, its := s.Names, me.ID.String(), other.ID.String()

	must := map[string][]string{
		"publish": {
			n.ReportSubject(my, "ready"), n.ReportSubject(my, "wiped"), n.HeartbeatSubject(my), n.ImageSubject(my), n.VaultSubject(my),
			"$JS.API.CONSUMER.INFO." + n.Placements() + "." + my,
			"$JS.API.CONSUMER.MSG.NEXT." + n.Placements() + "." + my,
			"$JS.API.DIRECT.GET." + n.Placements() + "." + n.PlacementSubject(my),
			"$JS.ACK." + n.Placements() + "." + my + ".1.1.1.1.0",
			"$JS.ACK.dom.acc." + n.Placements() + "." + my + ".1.1.1.1.0",
		},
		"subscribe": {streams.HostInbox(my) + ".x", streams.HostInbox(my) + ".>", n.ConsoleSubject(my)},
	}
	mustNot := map[string][]string{
		"publish": {
			// Others' subjects.
			n.ReportSubject(its, "ready"), n.HeartbeatSubject(its), n.ImageSubject(its), n.VaultSubject(its), n.ReportSubject(my, "a.b"),
			n.PlacementSubject(its), n.PlacementSubject(my), "report.other." + my + ".ready",
			// The control plane's.
			n.LogSubject(), "ev.test1.site.x", n.AuditSubject("x"), n.ConsoleSubject(my), n.ConsoleSubject(its), n.CommandSubject(),
			"document.test1.x", "documentkey.test1.x", "claim.test1", streams.ControlInbox + ".x", streams.HostInbox(its) + ".x",
			// Reading what is not its own.
			"$JS.API.DIRECT.GET." + n.Placements() + "." + n.PlacementSubject(its), "$JS.API.DIRECT.GET." + n.Placements(),
			"$JS.API.STREAM.MSG.GET." + n.Placements(), "$JS.API.STREAM.MSG.GET." + n.Log(), "$JS.API.DIRECT.GET." + n.Log() + "." + n.LogSubject(),
			"$JS.API.CONSUMER.MSG.NEXT." + n.Placements() + "." + its, "$JS.API.CONSUMER.INFO." + n.Placements() + "." + its,
			"$JS.API.CONSUMER.MSG.NEXT." + n.Log() + "." + my, "$JS.API.CONSUMER.MSG.NEXT." + n.Feed() + "." + my,
			"$JS.API.STREAM.INFO." + n.Log(), "$JS.API.STREAM.INFO." + n.Placements(), "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.INFO",
			"$JS.API.CONSUMER.LIST." + n.Placements(),
			// Making consumers, by every way there is.
			"$JS.API.CONSUMER.CREATE." + n.Placements(), "$JS.API.CONSUMER.CREATE." + n.Placements() + "." + my,
			"$JS.API.CONSUMER.CREATE." + n.Placements() + "." + my + "." + n.PlacementSubject(its),
			"$JS.API.CONSUMER.CREATE." + n.Feed() + ".x", "$JS.API.CONSUMER.DURABLE.CREATE." + n.Log() + ".x",
			"$JS.API.CONSUMER.DELETE." + n.Placements() + "." + its, "$JS.API.CONSUMER.DELETE." + n.Placements() + "." + my,
			"$JS.API.CONSUMER.PAUSE." + n.Placements() + "." + its, "$JS.ACK." + n.Placements() + "." + its + ".1.1.1.1.0",
			// Changing streams, by every prefix.
			"$JS.API.STREAM.PURGE." + n.Reports(), "$JS.API.STREAM.PURGE." + n.Log(), "$JS.API.STREAM.DELETE." + n.Log(),
			"$JS.API.STREAM.UPDATE." + n.Log(), "$JS.API.STREAM.MSG.DELETE." + n.Log(), "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.SNAPSHOT." + n.Log(),
			"$JS.test1.API.STREAM.INFO." + n.Log(), "$JS.test1.API.CONSUMER.MSG.NEXT." + n.Placements() + "." + its,
			"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING",
		},
		"subscribe": {
			">", "*", "*.>", "_INBOX.>", "_INBOX_*.>", streams.ControlInbox + ".>", streams.HostInbox(its) + ".>", streams.HostInbox(its) + ".x",
			n.LogSubject(), "log.*", "ev.>", n.EventsSubject(), "placement.>", n.PlacementSubject(my), n.PlacementSubject(its), "report.>",
			n.ReportSubject(its, "*"), n.HeartbeatSubject("*"), n.ImageSubject("*"), n.ImageSubject(my), n.VaultSubject("*"), n.ConsoleSubject("*"),
			n.ConsoleSubject(its), n.CommandSubject(), n.AuditSubject(">"), "$JS.>", "$JS.API.>", "$JS.ACK.>", "$SYS.>", "document.>", "documentkey.>",
		},
	}
	ops := map[string]func(string) func() error{"publish": w.publish, "subscribe": w.subscribe}
	for op, subjects := range must {
		for _, subject := range subjects {
			if w.refused(t, ops[op](subject)) {
				t.Errorf("a host must be able to %s %s", op, subject)
			}
		}
	}
	for op, subjects := range mustNot {
		for _, subject := range subjects {
			if !w.refused(t, ops[op](subject)) {
				t.Errorf("a host can %s %s", op, subject)
			}
		}
	}
	if seq, _, err := l.Last(streamstest.Context(t)); seq != 3 || err != nil {
		t.Fatalf("the log ends at %d, %v", seq, err)
	}
}

// TestHostHeaders: a host can set any header. None of them reaches another host's
// messages or its own older ones.
func TestHostHeaders(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	me := s.NewHost(1)
	nc := s.Raw(me)
	subject := s.Names.ReportSubject(me.ID.String(), "ready")
	if err := s.Link(me).Report(ctx, domain.ReportReady, []byte("first")); err != nil {
		t.Fatal(err)
	}
	for _, h := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-TTL": {"1s"}},
		{"Nats-Msg-Id": {"x"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {s.Names.LogSubject()}},
		{"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
	} {
		reply, err := nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: h, Data: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v: %s", h, reply.Data)
	}
	info, err := s.JetStream().Stream(ctx, s.Names.Reports())
	if err != nil {
		t.Fatal(err)
	}
	if st := info.CachedInfo().State; st.FirstSeq != 1 {
		t.Fatalf("the first report is gone: %+v", st)
	}
	if seq, _, err := s.Log().Last(ctx); seq != 0 || err != nil {
		t.Fatalf("the log ends at %d, %v", seq, err)
	}
}

// TestControlRights is the whole matrix of the control plane's own credentials: not
// even it can change what is written, speak for a host, or reach another site.
func TestControlRights(t *testing.T) { t.Parallel(); each(t, controlRights) }

func controlRights(t *testing.T, s *streamstest.Site) {
	l := s.Log()
	var c streamstest.Commits
	fill(t, l, &c, 3, 1)
	host := s.NewHost(1).ID.String()
	n, other := s.Names, streams.Names("other")
	api := func(verbs ...string) (out []string) { // of every stream of this site, of another, and of one that is not there
		for _, stream := range slices.Concat(n.Streams(), other.Streams(), []string{"X"}) {
			for _, verb := range verbs {
				out = append(out, "$JS.API."+verb+"."+stream, "$JS.test1.API."+verb+"."+stream)
			}
		}
		return out
	}
	nobody := slices.Concat(
		api("STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.SNAPSHOT", "STREAM.RESTORE", "STREAM.PEER.REMOVE", "STREAM.LEADER.STEPDOWN", "STREAM.MSG.DELETE",
			"CONSUMER.CREATE", "CONSUMER.LIST", "CONSUMER.NAMES", "DIRECT.GET"),
		[]string{
			"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.TEMPLATE.CREATE.X", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$JS.API.ACCOUNT.PURGE.X",
			"$JS.API.CONSUMER.DURABLE.CREATE." + n.Log() + ".x", "$JS.API.CONSUMER.DURABLE.CREATE." + n.Reports() + ".processes", "$JS.API.CONSUMER.PAUSE." + n.Placements() + "." + host,
			"$JS.API.CONSUMER.DELETE." + n.Placements() + "." + host, "$JS.API.CONSUMER.DELETE." + n.Reports() + ".processes", "$JS.API.CONSUMER.LEADER.STEPDOWN." + n.Reports() + ".processes",
			// A host's voice and ears.
			n.ReportSubject(host, "ready"), n.HeartbeatSubject(host), n.ImageSubject(host), n.VaultSubject(host), streams.HostInbox(host) + ".y",
			"$JS.API.CONSUMER.MSG.NEXT." + n.Placements() + "." + host, "$JS.ACK." + n.Placements() + "." + host + ".1.1.1.1.0",
			// Other sites', and the servers' own.
			other.LogSubject(), "ev.other.tenant.x.created", other.PlacementSubject(host), other.AuditSubject("x"), other.CommandSubject(), other.ConsoleSubject(host), "claim.other", "document.other.x", "documentkey.other.x",
			"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.X.LAMEDUCK", "$SYS.REQ.ACCOUNT.PING.CONNZ",
			"log", "log.test1.x", "x",
		})
	ears := []string{
		">", "*", "*.>", "_INBOX.>", "_INBOX_*.>", streams.HostInbox(host) + ".>", "$SYS.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.ADVISORY.>",
		n.LogSubject(), "log.*", n.EventsSubject(), "ev.>", n.PlacementSubject("*"), n.ReportSubject("*", "*"), "report.>", n.AuditSubject(">"), "document.>", "documentkey.>", "claim.>", n.ConsoleSubject("*"),
		other.LogSubject(), other.HeartbeatSubject("*"), other.ImageSubject("*"), other.VaultSubject("*"), other.CommandSubject(),
	}
	for _, x := range []struct {
		role               server.Role
		must, mustNot      []string // publish
		hears, mustNotHear []string
	}{
		{
			role: server.Runtime,
			must: []string{
				n.AuditSubject("x"), "$JS.API.STREAM.INFO." + n.Reports(), "$JS.API.STREAM.MSG.GET." + n.VaultKeys(), "$JS.API.CONSUMER.CREATE." + n.Feed() + ".x.ev.test1.tenant.x.>",
				"$JS.API.CONSUMER.CREATE." + n.Placements() + "." + host + "." + n.PlacementSubject(host), "$JS.ACK." + n.Reports() + ".processes.1.1.1.1.0", "$JS.ACK.dom.acc." + n.Reports() + ".processes.1.1.1.1.0",
			},
			mustNot: []string{
				n.CommandSubject(), n.ConsoleSubject(host), streams.ControlInbox + ".x",
				// Reports are read by the one work queue, documents by their name.
				"$JS.API.STREAM.MSG.GET." + n.Reports(), "$JS.API.STREAM.MSG.GET." + n.Audit(), "$JS.API.CONSUMER.CREATE." + n.Reports() + ".x", "$JS.API.CONSUMER.MSG.NEXT." + n.Reports() + ".x",
				"$JS.API.CONSUMER.CREATE." + n.Vault() + ".x", "$JS.API.CONSUMER.CREATE." + n.VaultKeys() + ".x", "$JS.API.CONSUMER.CREATE." + n.Claim() + ".x",
				"$JS.API.CONSUMER.CREATE." + n.Placements() + "." + host, "$JS.API.CONSUMER.CREATE." + n.Placements() + ".x.placement.>", "$JS.API.STREAM.MSG.GET." + other.Log(), "$JS.API.STREAM.INFO." + other.Log(),
				"$JS.API.CONSUMER.CREATE." + other.Log() + ".x", "$JS.ACK." + n.Log() + ".x.1.1.1.1.0",
			},
			hears: []string{streams.ControlInbox + ".x"}, mustNotHear: []string{n.HeartbeatSubject("*"), n.ImageSubject("*"), n.VaultSubject("*"), n.CommandSubject()},
		}, {
			role:    server.Responder,
			must:    []string{n.CommandSubject(), n.ConsoleSubject(host)},
			mustNot: slices.Concat(api("STREAM.INFO", "STREAM.MSG.GET"), []string{n.LogSubject(), "ev.test1.x.y.z", n.PlacementSubject(host), n.AuditSubject("x"), "claim.test1", "document.test1.x", "documentkey.test1.x", streams.ControlInbox + ".x"}),
			hears:   []string{streams.ControlInbox + ".x", n.HeartbeatSubject("*"), n.ImageSubject("*"), n.VaultSubject("*"), n.CommandSubject()},
		},
	} {
		w := watchErrors(func(o ...nats.Option) *nats.Conn { return s.Connect(x.role, o...) })
		for _, subject := range x.must {
			if w.refused(t, w.publish(subject)) {
				t.Errorf("the %s must be able to publish %s", x.role, subject)
			}
		}
		for _, subject := range slices.Concat(nobody, x.mustNot) {
			if x.role == server.Runtime && strings.HasSuffix(subject, ".API.STREAM.MSG.DELETE."+n.VaultKeys()) {
				continue // an erasure
			}
			if !w.refused(t, w.publish(subject)) {
				t.Errorf("the %s can publish %s", x.role, subject)
			}
		}
		for _, subject := range x.hears {
			if w.refused(t, w.subscribe(subject)) {
				t.Errorf("the %s must be able to subscribe %s", x.role, subject)
			}
		}
		for _, subject := range slices.Concat(ears, x.mustNotHear) {
			if !w.refused(t, w.subscribe(subject)) {
				t.Errorf("the %s can subscribe %s", x.role, subject)
			}
		}
	}

	// The administrator makes streams, and is nobody in them; the servers' account has
	// no part in the site's.
	admin := watchErrors(func(o ...nats.Option) *nats.Conn { return s.Connect(server.Admin, o...) })
	for _, subject := range []string{n.LogSubject(), n.ReportSubject(host, "ready"), n.PlacementSubject(host), n.CommandSubject(), streams.HostInbox(host) + ".y", "$SYS.REQ.CLAIMS.UPDATE", "$JS.ACK." + n.Reports() + ".processes.1.1.1.1.0"} {
		if !admin.refused(t, admin.publish(subject)) {
			t.Errorf("the administrator can publish %s", subject)
		}
	}
	for _, subject := range ears {
		if !admin.refused(t, admin.subscribe(subject)) {
			t.Errorf("the administrator can subscribe %s", subject)
		}
	}
	system := s.Connect(server.System)
	if err := system.Publish(n.LogSubject(), []byte("from elsewhere")); err != nil {
		t.Fatal(err)
	}
	if reply, err := system.RequestWithContext(streamstest.Context(t), "$JS.API.STREAM.INFO."+n.Log(), nil); err == nil && !strings.Contains(string(reply.Data), `"error"`) {
		t.Errorf("the servers' account reads the site's streams: %s", reply.Data)
	}
	if err := system.FlushWithContext(streamstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if seq, _, err := l.Last(streamstest.Context(t)); seq != 3 || err != nil {
		t.Fatalf("the log ends at %d, %v", seq, err)
	}
}

// TestRevoke: a revoked host is out at once, stays out, and its neighbour stays in.
func TestRevoke(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		bad, good := s.NewHost(1), s.NewHost(2)
		closed := make(chan struct{})
		s.Raw(bad, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
		neighbour := s.Raw(good)
		if err := s.Trust.Revoke(ctx, s.Connect(server.System), bad.Pub); err != nil {
			t.Fatal(err)
		}
		select {
		case <-closed:
		case <-ctx.Done():
			t.Fatal("a revoked host is still connected")
		}
		outside := func(when string) {
			t.Helper()
			for _, srv := range s.Servers {
				link, err := nats.Connect(srv.ClientURL(), nats.UserJWT(func() (string, error) { return bad.JWT, nil }, s.Options(bad).Sign))
				if err == nil {
					link.Close()
					t.Fatalf("%s a revoked host connects", when)
				}
			}
		}
		if len(s.Servers) == 1 { // the other servers learn it a moment later
			outside("after the revocation")
		}
		if err := neighbour.FlushWithContext(ctx); err != nil || neighbour.Stats().Reconnects != 0 {
			t.Fatalf("the neighbour lost its connection: %v", err)
		}
		for i := range s.Servers {
			s.Restart(i)
		}
		outside("after a restart")
		if err := s.Trust.Revoke(ctx, s.Connect(server.System), "UX"); err == nil {
			t.Fatal("revoked nonsense")
		}
	})
}

func TestHostCredentialChecks(t *testing.T) {
	t.Parallel()
	trust, err := server.OpenTrust(t.TempDir()+"/trust", "test1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.HostCredential(domain.HostID{1}, "nonsense"); err == nil {
		t.Fatal("issued a credential for nonsense")
	}
	if _, err := trust.HostCredential(domain.HostID{}, "UXXX"); err == nil {
		t.Fatal("issued a credential for no host")
	}
}
