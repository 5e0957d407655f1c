package sim_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/domain/sim"
)

var (
	during = flag.Duration("sim.for", 10*time.Minute, "how long a part of the campaign takes")
	cache  = flag.String("sim.cache", os.TempDir(), "where the campaign's count is kept")
)

// campaign is how far the long run is: it outlasts any sitting.
type campaign struct {
	Done    uint64 `json:"schedules"`
	Steps   uint64 `json:"steps"`
	Commits uint64 `json:"commits"`
	Events  uint64 `json:"events"`
	Seconds uint64 `json:"seconds"`
	Parts   []part `json:"newest_parts"`
}

// part is one sitting.
type part struct {
	Date   string `json:"date"`
	Commit string `json:"commit"`
	From   uint64 `json:"from_seed"`
	To     uint64 `json:"to_seed"`
}

const (
	campaignSeeds = 10_000_000 // seeds below are other tests'
	campaignGoal  = 1_000_000
	campaignBatch = 1000
	campaignSteps = 2000 // twice as many as in other tests: some states take long to come about
	keepParts     = 20
)

// TestCampaign goes on where it ended the last time, up to a million schedules. A
// schedule that fails stays the next one until it does not fail any more.
func TestCampaign(t *testing.T) {
	if !*long {
		t.Skip("make test-long")
	}
	file := filepath.Join(*cache, "simulation.json")
	var c campaign
	if err := domaintest.ReadCount(file, &c); err != nil {
		t.Fatal(err)
	}
	began, first := time.Now(), c.Done
	var all sim.Seen
	for time.Since(began) < *during && c.Done < campaignGoal {
		at := time.Now()
		seen, total, failure := batch(campaignSeeds+c.Done, campaignBatch, campaignSteps)
		if failure != nil {
			t.Fatalf("after %d schedules: %v", c.Done, sim.Shrink(failure))
		}
		all.Add(&seen)
		c.Done += campaignBatch
		c.Steps, c.Commits, c.Events = c.Steps+uint64(total.Steps), c.Commits+total.Commits, c.Events+total.Events
		c.Seconds += uint64(time.Since(at).Seconds())
		now := part{time.Now().UTC().Format(time.DateOnly), domaintest.Commit(), campaignSeeds + first, campaignSeeds + c.Done - 1}
		if n := len(c.Parts); n > 0 && c.Parts[n-1].From == now.From {
			c.Parts = c.Parts[:n-1]
		}
		c.Parts = append(c.Parts, now)
		c.Parts = c.Parts[max(0, len(c.Parts)-keepParts):]
		if err := domaintest.WriteCount(file, c); err != nil {
			t.Fatal(err)
		}
	}
	if never := all.Never(); len(never) > 0 && c.Done > first {
		t.Errorf("never seen: %s", strings.Join(never, ", "))
	}
	t.Logf("%d schedules of %d, %d steps, %d commits, %d events, 0 failures (%s)", c.Done, campaignGoal, c.Steps, c.Commits, c.Events, file)
}
