// Package loadtest sends one request over and over on many connections, at as
// little cost as can be: what is measured is the server. It is for benchmarks.
package loadtest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Result is what a load saw.
type Result struct {
	Took    []time.Duration // of each answered request, rising
	Elapsed time.Duration
}

// Rate is answers a second.
func (r Result) Rate() float64 { return float64(len(r.Took)) / r.Elapsed.Seconds() }

// Percentile is the time in which p of 100 requests were answered.
func (r Result) Percentile(p int) time.Duration { return r.Took[(len(r.Took)-1)*p/100] }

// Run sends whole HTTP/1.1 requests, one kind a connection, until n are answered or
// the time is up. Any answer but 2xx fails the benchmark.
func Run(b *testing.B, addr string, requests [][]byte, connections, n int, limit time.Duration) (out Result) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	all := make([][]time.Duration, connections)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r, request := bufio.NewReader(c), requests[i%len(requests)]
			for left.Add(-1) >= 0 && time.Since(start) < limit {
				sent := time.Now()
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				if err := skipAnswer(r); err != nil {
					b.Error(err)
					return
				}
				all[i] = append(all[i], time.Since(sent))
			}
		})
	}
	wg.Wait()
	out.Elapsed = time.Since(start)
	out.Took = slices.Concat(all...)
	slices.Sort(out.Took)
	if len(out.Took) == 0 {
		b.Fatal("nothing was answered")
	}
	return out
}

// skipAnswer reads one answer; only 2xx with a length is one.
func skipAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || line[9] != '2' {
		rest, _ := r.Peek(min(r.Buffered(), 600))
		return fmt.Errorf("%s%s", line, rest)
	}
	length, chunked := 0, false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	if chunked {
		return fmt.Errorf("chunked")
	}
	_, err = r.Discard(length)
	return err
}
