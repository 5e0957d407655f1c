package streams_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// killEnv makes the test binary a writer: server, log and fan-out in one process,
// which prints every acknowledged commit and goes on until it is killed.
const killEnv = "STREAMS_TEST_WRITER_DIR"

func writerProcess(dir string) error {
	ctx := context.Background()
	n, err := streams.ParseSite("test1")
	if err != nil {
		return err
	}
	srv, err := server.Start(ctx, server.Options{Dir: dir, Site: string(n)})
	if err != nil {
		return err
	}
	l, err := streams.OpenLog(ctx, streams.LogConfig{Dial: srv.Dial(server.Runtime), Site: n})
	if err != nil {
		return err
	}
	f, err := streams.OpenFanout(srv.Dial(server.Runtime), l)
	if err != nil {
		return err
	}
	go f.Run(ctx) // ends with the process
	var c streamstest.Commits
	seq, data, err := l.Last(ctx)
	if err != nil {
		return err
	}
	if data != nil {
		last, err := domain.DecodeCommitEvents(data)
		if err != nil {
			return err
		}
		c.Head = domain.Head{N: last.N, Hash: domain.DigestOf(data)}
		for _, d := range last.Decisions {
			c.Events = d.Events[len(d.Events)-1].Number
		}
	}
	for { // until it is killed
		b := c.Next(7, "a")
		if seq, err = l.Append(ctx, seq, b); err != nil {
			return err
		}
		fmt.Println(seq, c.Head.Hash)
	}
}

// TestKill kills the process with server, writer and fan-out again and again: no
// acknowledged commit is missing, and the feed is exactly the log's events.
func TestKill(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1) // makes the streams; its folder is then the writer's
	s.Servers[0].Shutdown()
	dir := filepath.Join(s.Dir, "0")
	if err := os.CopyFS(filepath.Join(dir, "trust"), os.DirFS(filepath.Join(s.Dir, "trust"))); err != nil {
		t.Fatal(err)
	}
	acked := map[uint64]string{}
	for round := range 4 {
		cmd := exec.CommandContext(streamstest.Context(t), os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), killEnv+"="+dir), os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var seq uint64
			var hash string
			if _, err := fmt.Sscan(lines.Text(), &seq, &hash); err == nil {
				acked[seq] = hash
			}
			if n == 100+37*round { // what is printed until it dies counts too
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
	}
	s.Restart(0)
	ctx := streamstest.Context(t)
	l := s.Log()
	var chain streams.Chain
	var want []string
	err := l.Read(ctx, 1, func(seq uint64, data []byte) error {
		if err := chain.Next(data); err != nil {
			return err
		}
		if h, ok := acked[seq]; ok && h != chain.Head.Hash.String() {
			return fmt.Errorf("commit %d is not the acknowledged one", seq)
		}
		delete(acked, seq)
		c, err := domain.DecodeCommitEvents(data)
		if err != nil {
			return err
		}
		for _, d := range c.Decisions {
			for _, e := range d.Events {
				want = append(want, fmt.Sprint(e.Number, " ", chain.Head))
			}
		}
		return nil
	})
	if err != nil || len(acked) != 0 {
		t.Fatalf("%v; acknowledged and missing: %v", err, acked)
	}
	runFanout(t, s, l)
	for i, e := range subscribe(t, openFeed(t, s), uint64(len(want))) {
		if got := fmt.Sprint(e.Number, " ", e.Commit); got != want[i] {
			t.Fatalf("feed has %s, want %s", got, want[i])
		}
	}
}
