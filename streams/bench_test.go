package streams_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// BenchmarkAppend is one commit after another with sync always, in the process of
// the server and over loopback; fdatasync is what the disk itself can do, in the
// same minute.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 64 << 10} {
		b.Run(fmt.Sprintf("fdatasync/%d", size), func(b *testing.B) { benchFdatasync(b, size) })
		for _, replicas := range []int{1, 3} {
			s := streamstest.New(b, replicas)
			for name, dial := range map[string]streams.Dial{"process": s.Servers[0].Dial(server.Runtime), "tcp": s.Dial(server.Runtime)} {
				b.Run(fmt.Sprintf("R%d/%s/%d", replicas, name, size), func(b *testing.B) {
					l := s.LogBy(dial)
					ctx := streamstest.Context(b)
					seq, _, err := l.Last(ctx)
					if err != nil {
						b.Fatal(err)
					}
					var c streamstest.Commits // only the first has to be one
					data := append(c.Next(1, "a"), make([]byte, size)...)
					b.ReportAllocs()
					b.ResetTimer()
					for range b.N {
						if seq, err = l.Append(ctx, seq, data); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func benchFdatasync(b *testing.B, size int) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	for b.Loop() {
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead folds nothing: the reader alone, and with the chain check.
func BenchmarkRead(b *testing.B) {
	for _, size := range []struct{ events, commits int }{{1, 20_000}, {700, 300}, {3000, 100}} {
		s := streamstest.New(b, 1)
		l := s.LogBy(s.Servers[0].Dial(server.Runtime))
		var c streamstest.Commits
		fill(b, l, &c, size.commits, size.events)
		for name, dial := range map[string]streams.Dial{"process": s.Servers[0].Dial(server.Runtime), "tcp": s.Dial(server.Runtime)} {
			for _, chained := range []bool{false, true} {
				b.Run(fmt.Sprintf("events=%d/%s/chain=%v", size.events, name, chained), func(b *testing.B) {
					l := s.LogBy(dial)
					ctx := streamstest.Context(b)
					var bytes, n int
					for b.Loop() {
						var chain streams.Chain
						err := l.Read(ctx, 1, func(_ uint64, data []byte) error {
							n++
							bytes += len(data)
							if chained {
								return chain.Next(data)
							}
							return nil
						})
						if err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msgs/s")
					b.ReportMetric(float64(bytes)/b.Elapsed().Seconds()/1e6, "MB/s")
				})
			}
		}
	}
}

// BenchmarkFanout is events a second from the log into the feed.
func BenchmarkFanout(b *testing.B) {
	s := streamstest.New(b, 1)
	l := s.LogBy(s.Servers[0].Dial(server.Runtime))
	var c streamstest.Commits
	fill(b, l, &c, 1000, 200)
	for name, dial := range map[string]streams.Dial{"process": s.Servers[0].Dial(server.Runtime), "tcp": s.Dial(server.Runtime)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := streams.RebuildFeed(streamstest.Context(b), s.Connect(server.Admin), s.Config, 1); err != nil {
					b.Fatal(err)
				}
				f, err := streams.OpenFanout(dial, l)
				if err != nil {
					b.Fatal(err)
				}
				stop := background(b, func(ctx context.Context) { _ = f.Run(ctx) })
				for f.Position() < c.Events {
					time.Sleep(time.Millisecond)
				}
				stop()
				f.Close()
			}
			b.ReportMetric(float64(c.Events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
