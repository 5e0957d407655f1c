package streams_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

func TestDrift(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		nc := s.Connect(server.Runtime) // the runtime's rights are enough to look
		check := func() []streams.Drift {
			t.Helper()
			d, err := streams.CheckConfig(ctx, nc, s.Config)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if d := check(); len(d) != 0 {
			t.Fatalf("fresh streams drift: %v", d)
		}
		seen := make(chan []streams.Drift, 10)
		watch, cancel := context.WithCancel(ctx)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			streams.Watch(watch, nc, s.Config, 20*time.Millisecond, func(d []streams.Drift, err error) {
				if err == nil {
					seen <- d
				}
			})
		}()
		defer func() { cancel(); <-stopped }()

		js := s.JetStream()
		update := func(stream string, change func(*jetstream.StreamConfig)) {
			t.Helper()
			st, err := js.Stream(ctx, stream)
			if err != nil {
				t.Fatal(err)
			}
			c := st.CachedInfo().Config
			change(&c)
			if _, err := js.UpdateStream(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		update(s.Names.Log(), func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 })
		d := <-seen
		if len(d) != 1 || d[0] != (streams.Drift{Stream: s.Names.Log(), Field: "MaxMsgs", Want: "-1", Have: "1"}) {
			t.Fatalf("drift: %v", d)
		}
		if !strings.Contains(d[0].String(), "LOG_test1: MaxMsgs is 1, want -1") {
			t.Fatalf("not said plainly: %s", d[0])
		}
		// Set-up looks and does not touch.
		if d, err := streams.Setup(ctx, s.Connect(server.Admin), s.Config); len(d) != 1 || err != nil {
			t.Fatalf("set-up: %v, %v", d, err)
		}
		update(s.Names.Log(), func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 })
		if d := <-seen; len(d) != 0 {
			t.Fatalf("repaired, and still: %v", d)
		}
		update(s.Names.Reports(), func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "report.test1.*.more") })
		if d := <-seen; len(d) != 1 || d[0].Field != "Subjects" {
			t.Fatalf("drift: %v", d)
		}
		update(s.Names.Log(), func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
		until(t, seen, func(d []streams.Drift) bool { return len(d) == 2 })
		d, err := streams.Repair(ctx, s.Connect(server.Admin), s.Config)
		if len(d) != 1 || d[0].Stream != s.Names.Log() || err != nil {
			t.Fatalf("repair leaves %v, %v: want the log's drift alone", d, err)
		}
		if err := js.DeleteStream(ctx, s.Names.Audit()); err != nil {
			t.Fatal(err)
		}
		until(t, seen, func(d []streams.Drift) bool {
			return len(d) == 2 && d[1].Field == "stream" && d[1].Stream == s.Names.Audit()
		})
		if d, err := streams.Repair(ctx, s.Connect(server.Admin), s.Config); len(d) != 2 || err != nil {
			t.Fatalf("repair with a stream missing: %v, %v: it is not repair's to make", d, err)
		}
	})
}
