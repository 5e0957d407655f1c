package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestLogExport reads the whole log as lines of JSON.
func TestLogExport(t *testing.T) {
	t.Parallel()
	s := dev(t, 1, 1)
	te := s.newTenant("acme", 100_000_000)
	a := te.launch(obj{"name": "find-me", "sku": "gpu-1x", "user_data": "#!/bin/sh\necho s3cret\n"})
	te.becomes(a.ID, "running")
	least := te.head()
	type commit struct {
		N         uint64 `json:"n"`
		Prev      string `json:"prev"`
		Decisions []struct {
			Command struct {
				ID   string          `json:"id"`
				Type string          `json:"type"`
				Data json.RawMessage `json:"data"`
			} `json:"command"`
			Events []struct {
				Number uint64          `json:"number"`
				Type   string          `json:"type"`
				Data   json.RawMessage `json:"data"`
			} `json:"events"`
		} `json:"decisions"`
	}
	read := func(args ...string) (out []commit, text string) {
		t.Helper()
		text, stderr, code := tool(t, append([]string{"log", "export", "--data-dir", s.dir}, args...)...)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			var c commit
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			out = append(out, c)
		}
		return out, text
	}
	commits, text := read()
	if uint64(len(commits)) < least {
		t.Errorf("%d commits, the head was %d", len(commits), least)
	}
	number, placed := uint64(0), false
	for i, c := range commits {
		if c.N != uint64(i+1) || (c.Prev == "") != (i == 0) || len(c.Decisions) == 0 {
			t.Errorf("line %d is commit %d, %d decisions", i+1, c.N, len(c.Decisions))
		}
		for _, d := range c.Decisions {
			if d.Command.ID == "" || d.Command.Type == "" {
				t.Errorf("commit %d: a command without id or type", c.N)
			}
			for _, e := range d.Events {
				if number++; e.Number != number {
					t.Errorf("commit %d: event %d, want %d", c.N, e.Number, number)
				}
				placed = placed || e.Type == "allocation.placed" && strings.Contains(string(e.Data), a.ID)
			}
		}
	}
	if !placed {
		t.Error("the launch is not there")
	}
	for _, secret := range []string{"s3cret", te.key, s.key} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	explained := func() {
		t.Helper()
		text, stderr, code := tool(t, "log", "explain", "--json", "--data-dir", s.dir, a.ID)
		var e struct {
			Commit uint64
			VMs    []struct {
				Host string `json:"host_id"`
			}
			Hosts []struct {
				Host   string `json:"host_id"`
				VMs    int
				Reason string
			}
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil || code != 0 {
			t.Fatalf("exit code %d: %v: %s%s", code, err, text, stderr)
		}
		if e.Commit == 0 || len(e.VMs) != 1 || len(e.Hosts) != 1 || e.Hosts[0].Host != e.VMs[0].Host || e.Hosts[0].Reason != "chosen" {
			t.Errorf("explained as %s", text)
		}
	}
	explained()
	if part, _ := read("--from", "3", "--to", "5"); len(part) != 3 || part[0].N != 3 {
		t.Errorf("commits 3 to 5 are %d lines from %d", len(part), part[0].N)
	}
	verified(t, s)
	if text, _, code := tool(t, "log", "explain", "--data-dir", s.dir, a.ID); code != 0 || !strings.Contains(text, "chosen") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if _, stderr, code := tool(t, "log", "explain", "--data-dir", s.dir, "alloc_10000000000000000000000000"); code == 0 || !strings.Contains(stderr, "no launch of allocation") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	s.interrupt()
	explained()
	if again, _ := read(); len(again) < len(commits) {
		t.Errorf("the stopped site has %d commits, the running one had %d", len(again), len(commits))
	}
}
