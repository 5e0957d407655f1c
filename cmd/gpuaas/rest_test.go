package main_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// caller is who asks: a key at a site.
type caller struct {
	s   *site
	key string
}

// answer is what came back.
type answer struct {
	status int
	seq    uint64 // Log-Sequence
	code   string // of a problem
	body   []byte
}

func (a *answer) into(t testing.TB, out any) {
	t.Helper()
	if err := json.Unmarshal(a.body, out); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

var httpClient = newClient(nil)

func newClient(trusted *tls.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trusted
	return &http.Client{Timeout: 35 * time.Second, Transport: transport}
}

// ask makes one request. An error: no whole answer came.
func (c caller) ask(method, path string, body any, headers ...string) (*answer, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, c.s.address()+path, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := httpClient
	if c.s.client != nil {
		client = c.s.client
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode}
	a.seq, _ = strconv.ParseUint(res.Header.Get("Log-Sequence"), 10, 64)
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	if a.status >= 400 {
		var p struct {
			Code      string `json:"code"`
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(a.body, &p); err != nil || p.Code == "" || p.RequestID == "" {
			return nil, fmt.Errorf("%s %s: status %d is no problem document: %s", method, path, a.status, a.body)
		}
		a.code = p.Code
	}
	return a, nil
}

// do wants a certain status.
func (c caller) do(status int, method, path string, body any, headers ...string) *answer {
	c.s.t.Helper()
	a, err := c.ask(method, path, body, headers...)
	if err != nil {
		c.s.t.Fatalf("%s %s: %v\n%s", method, path, err, c.s.out.tail())
	}
	if a.status != status {
		c.s.t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// get reads JSON.
func (c caller) get(path string, out any) *answer {
	c.s.t.Helper()
	a := c.do(200, "GET", path, nil)
	a.into(c.s.t, out)
	return a
}

// refused wants a problem with this status and code.
func (c caller) refused(status int, code, method, path string, body any) {
	c.s.t.Helper()
	if a := c.do(status, method, path, body); a.code != code {
		c.s.t.Fatalf("%s %s: code %q, want %q: %s", method, path, a.code, code, a.body)
	}
}

// list reads all pages of a list.
func list[T any](c caller, path string) []T {
	c.s.t.Helper()
	out, sep := []T{}, "?"
	for _, ch := range path {
		if ch == '?' {
			sep = "&"
		}
	}
	for cursor := ""; ; { // ends with the last page
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next_cursor"`
		}
		c.get(path+sep+"limit=100"+cursor, &page)
		out = append(out, page.Items...)
		if page.Next == "" {
			return out
		}
		cursor = "&cursor=" + page.Next
	}
}

// operator is the bootstrap operator.
func (s *site) operator() caller {
	s.mu.Lock()
	defer s.mu.Unlock()
	return caller{s, s.key}
}

// tenant is a tenant with a key of its own and one project.
type tenant struct {
	caller
	id, project string
}

// newTenant makes one with credit in USD.
func (s *site) newTenant(name string, credit int64) tenant {
	s.t.Helper()
	op := s.operator()
	var made struct {
		ID     string `json:"id"`
		Secret string `json:"secret"`
	}
	op.do(201, "POST", "/v1/tenants", obj{"name": name, "currency": "USD"}).into(s.t, &made)
	te := tenant{id: made.ID}
	op.do(201, "POST", "/v1/tenants/"+te.id+"/api-keys", obj{"name": "owner", "role": "owner"}).into(s.t, &made)
	te.caller = caller{s, made.Secret}
	te.do(201, "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "main"}).into(s.t, &made)
	te.project = made.ID
	if credit > 0 {
		op.do(201, "POST", "/v1/tenants/"+te.id+"/credits", obj{"currency": "USD", "amount_micros": credit, "kind": "paid"})
	}
	return te
}

type obj map[string]any

type allocation struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	State      string `json:"state"`
	Reason     string `json:"reason"`
	ReleasedAt string `json:"released_at"`
	VMs        []struct {
		ID      string   `json:"id"`
		State   string   `json:"state"`
		HostID  string   `json:"host_id"`
		SlotIDs []string `json:"slot_ids"`

		BilledSince string `json:"billed_since"`
	} `json:"vms"`
}

type slot struct {
	ID     string `json:"id"`
	Index  int    `json:"index"`
	HostID string `json:"host_id"`
	State  string `json:"state"`

	AllocationID string `json:"allocation_id"`

	Component  string `json:"component"`
	Reason     string `json:"reason"`
	Generation uint64 `json:"generation"`
	NVMe       struct {
		Serial string `json:"serial"`
		Bytes  uint64 `json:"size_bytes"`
	} `json:"nvme"`
}

type balance struct {
	Available  int64 `json:"available_micros"`
	Held       int64 `json:"held_micros"`
	Unbilled   int64 `json:"unbilled_micros"`
	Receivable int64 `json:"receivable_micros"`
}

// launch asks for VMs and wants them; then every read has them.
func (te tenant) launch(body obj) (a allocation) {
	te.s.t.Helper()
	made := te.do(201, "POST", "/v1/projects/"+te.project+"/allocations", body)
	made.into(te.s.t, &a)
	te.get(fmt.Sprintf("/v1/allocations/%s?at_least=%d", a.ID, made.seq), &a)
	return a
}

// becomes waits until the allocation is in a state, and returns it.
func (te tenant) becomes(id, state string) allocation {
	te.s.t.Helper()
	var a allocation
	eventually(te.s.t, limit, id+" to be "+state, func() error {
		got, err := te.ask("GET", "/v1/allocations/"+id, nil)
		if err != nil {
			return err
		}
		if got.status != 200 {
			return fmt.Errorf("status %d: %s", got.status, got.body)
		}
		a = allocation{}
		got.into(te.s.t, &a)
		if a.State != state {
			return fmt.Errorf("it is %s (%s)", a.State, a.Reason)
		}
		return nil
	})
	return a
}

// slotBecomes waits until a slot is in a state, and returns it.
func (s *site) slotBecomes(id, state string) slot {
	s.t.Helper()
	var sl slot
	eventually(s.t, limit, id+" to be "+state, func() error {
		s.operator().get("/v1/slots/"+id, &sl)
		if sl.State != state {
			return fmt.Errorf("it is %s (%s %s)", sl.State, sl.Component, sl.Reason)
		}
		return nil
	})
	return sl
}

type event struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Subject  string          `json:"subject"`
	Number   uint64          `json:"number"`
	Sequence uint64          `json:"sequence"`
	Data     json.RawMessage `json:"data"`
}

// events reads all there are, of the whole site or of one tenant.
func (c caller) events(path string) []event {
	c.s.t.Helper()
	var all []event
	for after := ""; ; { // ends when the cursor stands still
		var page struct {
			Items []event `json:"items"`
			Next  string  `json:"next_cursor"`
		}
		c.get(path+"?limit=100"+after, &page)
		all = append(all, page.Items...)
		if len(page.Items) == 0 {
			return all
		}
		after = "&after=" + page.Next
	}
}

// billed finds from when to when an allocation's VM was billed, from its events.
func billed(t testing.TB, events []event, id string) (from, to time.Time) {
	t.Helper()
	for _, e := range events {
		var d struct {
			At       time.Time `json:"at"`
			BilledTo time.Time `json:"billed_to"`
		}
		if e.Subject != id {
			continue
		}
		switch e.Type {
		case "allocation.vm_billable":
			if err := json.Unmarshal(e.Data, &d); err != nil {
				t.Fatal(err)
			}
			from = d.At
		case "allocation.releasing":
			if err := json.Unmarshal(e.Data, &d); err != nil {
				t.Fatal(err)
			}
			to = d.BilledTo
		}
	}
	if from.IsZero() || to.IsZero() {
		t.Fatalf("%s was billed from %v to %v", id, from, to)
	}
	return from, to
}

// price is what a development site asks for a GPU-hour.
const price = 2_490_000

// cost is floor(price * elapsed / hour), to the millisecond.
func cost(from, to time.Time) int64 { return price * to.Sub(from).Milliseconds() / 3_600_000 }

// errNo makes a condition an objection.
func errNo(ok bool, what string) error {
	if ok {
		return nil
	}
	return errors.New(what)
}
