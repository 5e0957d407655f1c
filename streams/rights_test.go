package streams_test

import (
	"errors"
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
	case <-time.After(10 * time.Second):
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

// TestRuntimeRights: not even the control plane can change what is written.
func TestRuntimeRights(t *testing.T) { t.Parallel(); each(t, runtimeRights) }

func runtimeRights(t *testing.T, s *streamstest.Site) {
	n := s.Names
	runtime := watchErrors(func(o ...nats.Option) *nats.Conn { return s.Connect(server.Runtime, o...) })
	responder := watchErrors(func(o ...nats.Option) *nats.Conn { return s.Connect(server.Responder, o...) })
	for _, w := range []*watched{runtime, responder} {
		var denied []string
		for _, stream := range append(n.Streams(), "X") {
			for _, api := range []string{"CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE", "PEER.REMOVE", "LEADER.STEPDOWN"} {
				if w == runtime && api == "MSG.DELETE" && stream == n.VaultKeys() {
					continue
				}
				denied = append(denied, "$JS.API.STREAM."+api+"."+stream, "$JS.test1.API.STREAM."+api+"."+stream)
			}
		}
		denied = append(denied, n.ReportSubject("host_x", "ready"), n.HeartbeatSubject("host_x"), "$SYS.REQ.CLAIMS.UPDATE", streams.HostInbox("host_x")+".y")
		for _, subject := range denied {
			if !w.refused(t, w.publish(subject)) {
				t.Errorf("the control plane can publish %s", subject)
			}
		}
	}
	for _, subject := range []string{n.LogSubject(), "$JS.API.STREAM.MSG.GET." + n.Log(), n.ConsoleSubject("*")} {
		if !responder.refused(t, responder.subscribe(subject)) {
			t.Errorf("the responder can subscribe %s", subject)
		}
	}
	if !responder.refused(t, responder.publish(n.LogSubject())) {
		t.Error("the responder can append")
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
