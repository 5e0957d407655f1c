package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// load grants one micro after another, each until it is acknowledged, through all
// processes in turn.
type load struct {
	c       *cluster
	stop    chan struct{}
	over    chan struct{} // closed when nobody is there any more who could answer; nil: somebody is
	wg      sync.WaitGroup
	acked   atomic.Int64
	retried atomic.Int64
	bad     atomic.Pointer[string] // an answer that is neither success nor a reason to try again

	mu   sync.Mutex
	acks []time.Time
	head uint64
}

func (c *cluster) load(workers int) *load {
	l := &load{c: c, stop: make(chan struct{})}
	for w := range workers {
		l.wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
					l.grant(c.tenants[(w+i)%len(c.tenants)], w+i, fmt.Sprintf("w%d-%d-%d", w, i, time.Now().UnixNano()))
				}
			}
		})
	}
	return l
}

// grant asks until it is answered; from says which process is asked first.
func (l *load) grant(tenant string, from int, key string) {
	op := l.c.members[0].operator()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for try, deadline := 0, time.Now().Add(limit); time.Now().Before(deadline); try++ {
		status, seq, body, err := l.c.post((from+try)%len(l.c.members), op.key, "/v1/tenants/"+tenant+"/credits", obj{"currency": "USD", "amount_micros": 1, "kind": "paid"}, key)
		switch {
		case err == nil && status == 201:
			now := time.Now()
			l.acked.Add(1)
			l.mu.Lock()
			l.acks, l.head = append(l.acks, now), max(l.head, seq)
			l.mu.Unlock()
			return
		case err == nil && status != 503:
			text := fmt.Sprintf("status %d: %s", status, body)
			l.bad.Store(&text)
			return
		}
		l.retried.Add(1)
		select {
		case <-tick.C:
		case <-l.over:
			return
		}
	}
	text := "no answer to " + key
	l.bad.Store(&text)
}

func (c *cluster) post(i int, key, path string, body any, idempotency string) (status int, seq uint64, answer []byte, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, 0, nil, err
	}
	r, err := http.NewRequest("POST", c.members[i].address()+path, bytes.NewReader(b))
	if err != nil {
		return 0, 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", idempotency)
	res, err := httpClient.Do(r)
	if err != nil {
		return 0, 0, nil, err
	}
	defer res.Body.Close()
	_, _ = fmt.Sscan(res.Header.Get("Log-Sequence"), &seq)
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, seq, answer, err
}

// more waits for so many further acknowledgements.
func (l *load) more(n int64) {
	l.c.t.Helper()
	want := l.acked.Load() + n
	eventually(l.c.t, limit, "commands are answered", func() error {
		if bad := l.bad.Load(); bad != nil {
			l.c.t.Fatal(*bad)
		}
		return errNo(l.acked.Load() >= want, fmt.Sprintf("%d of %d", l.acked.Load(), want))
	})
}

// end stops the load; every command is answered then.
func (l *load) end() {
	l.c.t.Helper()
	close(l.stop)
	l.wg.Wait()
	if bad := l.bad.Load(); bad != nil {
		l.c.t.Fatal(*bad)
	}
}

// gap is the longest time without an acknowledgement after a moment.
func (l *load) gap(after time.Time) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := after
	for _, at := range l.acks {
		if at.After(after) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return longest
}
