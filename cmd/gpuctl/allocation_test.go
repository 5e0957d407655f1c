package main

import (
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/client"
)

// TestReasonOf: who looks at a VM that costs without being of use learns why.
func TestReasonOf(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		state string
		vms   []client.VM
		want  string
	}{
		"coming up":      {client.Provisioning, []client.VM{{}}, ""},
		"alive":          {client.Provisioning, []client.VM{{}, {BilledSince: since}}, "has not said that it is ready (see its console); billed since " + when(since)},
		"starting again": {client.Starting, []client.VM{{BilledSince: since}}, "billed since " + when(since)},
		"off by itself":  {client.Stopped, []client.VM{{Reason: "guest", BilledSince: since}}, "guest (its GPUs are kept, and billed until it is released)"},
		"ready":          {client.Running, []client.VM{{BilledSince: since}}, ""},
	} {
		got := reasonOf(client.Allocation{State: c.state, VMs: c.vms})
		if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
