package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// follower reads an event stream as a browser does: it comes again with the last id
// it has.
type follower struct {
	te tenant

	mu   sync.Mutex
	last string
	got  []event
}

// follow reads until the connection ends.
func (f *follower) follow() error {
	req, err := http.NewRequestWithContext(f.te.s.t.Context(), http.MethodGet, f.te.s.address()+"/v1/events", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.te.key)
	req.Header.Set("Accept", "text/event-stream")
	f.mu.Lock()
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	f.mu.Unlock()
	res, err := (&http.Client{}).Do(req) // no timeout: it goes on for ever
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("event stream: %s", res.Status)
	}
	id, data := "", ""
	for lines := bufio.NewScanner(res.Body); lines.Scan(); { // ends with the connection
		line := lines.Text()
		if text, ok := strings.CutPrefix(line, "id: "); ok {
			id = text
		}
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			data = text
		}
		if line == "" && id != "" { // what was cut off before it does not count
			if err := f.take(id, data); err != nil {
				return err
			}
			id, data = "", ""
		}
	}
	return nil
}

func (f *follower) take(id, data string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = id
	if data == "" {
		return nil
	}
	var e event
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return fmt.Errorf("%w: %s", err, data)
	}
	f.got = append(f.got, e)
	return nil
}

func (f *follower) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got)
}

// TestEventStreamOverKill follows a tenant's events over kill -9 of the site while
// more come: with Last-Event-ID nothing is missed and nothing comes twice.
func TestEventStreamOverKill(t *testing.T) {
	t.Parallel()
	const each, kills = 15, 2
	s := newSite(t, "serve", "--log-level", "warn")
	te := s.newTenant("acme", 5)
	f := &follower{te: te}
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			_ = f.follow() // the site is away, or was killed: again
			select {
			case <-done:
				return
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	var repeats atomic.Int64
	for round := range kills + 1 {
		seen := f.count()
		var writing sync.WaitGroup
		writing.Go(func() {
			for i := range each {
				name := fmt.Sprintf("p-%d-%d", round, i)
				if te.persist(201, "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": name}, name, &repeats) == nil {
					return
				}
			}
		})
		eventually(t, limit, "events on the stream", func() error { return errNo(f.count() > seen+each/3, "too few") })
		if round < kills {
			s.kill()
			s.start()
		}
		writing.Wait()
	}
	want := te.events("/v1/events")
	eventually(t, limit, "the last event", func() error { return errNo(f.count() >= len(want), fmt.Sprint(f.count())) })
	close(done)
	s.interrupt()
	reading.Wait()
	same := func(a, b event) bool {
		return a.ID == b.ID && a.Number == b.Number && a.Sequence == b.Sequence && a.Type == b.Type && a.Subject == b.Subject
	}
	if !slices.EqualFunc(f.got, want, same) || len(want) < each*(kills+1) {
		t.Errorf("%d events came over the stream, %d are there", len(f.got), len(want))
	}
}
