package main_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gpuaas/gpuaas/domain/domaintest"
)

var (
	campaignLong  = flag.Bool("campaign.long", false, "go on with the campaign against real processes")
	campaignFor   = flag.Duration("campaign.for", 10*time.Minute, "how long a sitting of the campaign takes")
	campaignCache = flag.String("campaign.cache", os.TempDir(), "where the campaign's count is kept")
	campaignSeed  = flag.Uint64("campaign.seed", 0, "seed of faults and clients; 0: another one each time")
	campaignSites = flag.Int("campaign.sites", 3, "sites under attack at a time: each waits for elections most of the time")
	campaignOps   = flag.Int("campaign.ops", 2000, "operations of a history, at least")
)

// tally is how far the campaign is: it outlasts any sitting.
type tally struct {
	Histories  int            `json:"histories"`
	Operations int            `json:"operations"`
	Late       int            `json:"decided_after_a_refusal"`
	Restarts   int            `json:"starts_of_processes"`
	Faults     map[string]int `json:"faults"`
	Seconds    int            `json:"seconds"`
	Newest     []trialRun     `json:"newest"`
}

// trialRun is one run.
type trialRun struct {
	Date       string `json:"date"`
	Commit     string `json:"commit"`
	Seed       uint64 `json:"seed"`
	Operations int    `json:"operations"`
}

const keepRuns = 20

// oneTrial runs a site, attacks it, and judges what is left.
func oneTrial(t *testing.T, seed uint64, over func(faults, operations int, since time.Duration) bool) tally {
	t.Helper()
	t.Logf("seed %d", seed)
	began := time.Now()
	tr := newTrial(t)
	t.Logf("the site runs after %v", time.Since(began).Round(time.Millisecond))
	c := tr.clients(seed)
	counts := tr.attack(c, rand.New(rand.NewPCG(seed, 1<<32)), func(done int) bool { return over(done, int(c.acked.Load()), time.Since(c.began)) })
	history := c.end()
	v := tr.judge(history)
	out := tally{Histories: 1, Operations: v.operations, Late: v.late, Faults: counts, Seconds: int(time.Since(began).Seconds())}
	for _, d := range tr.daemons() {
		out.Restarts += d.started()
	}
	out.Newest = []trialRun{{time.Now().UTC().Format(time.DateOnly), domaintest.Commit(), seed, v.operations}}
	t.Logf("faults: %s", describe(counts))
	t.Logf("%d operations, %d decided after a refusal, %d starts of processes, %v", v.operations, v.late, out.Restarts, time.Since(began).Round(time.Millisecond))
	return out
}

func seedOfRun() uint64 {
	if *campaignSeed != 0 {
		return *campaignSeed
	}
	return uint64(time.Now().UnixNano())
}

// TestCampaignSlice is a short run of the campaign: a few faults, all the judgement.
func TestCampaignSlice(t *testing.T) {
	t.Parallel()
	got := oneTrial(t, seedOfRun(), func(faults, operations int, since time.Duration) bool {
		return faults >= 4 && operations >= 100 || since > 15*time.Second
	})
	if got.Operations < 20 || len(got.Faults) == 0 {
		t.Errorf("%d operations under %d kinds of faults: this tested nothing", got.Operations, len(got.Faults))
	}
}

// TestCampaign goes on where it ended the last time. A run that fails counts for
// nothing, and says its seed.
func TestCampaign(t *testing.T) {
	if !*campaignLong {
		t.Skip("make test-long")
	}
	c := &sitting{file: filepath.Join(*campaignCache, "campaign.json"), began: time.Now()}
	if err := domaintest.ReadCount(c.file, &c.sum); err != nil {
		t.Fatal(err)
	}
	t.Run("sites", func(t *testing.T) { // ends with the last of them
		for i := range *campaignSites {
			t.Run(fmt.Sprint(i), c.attackOne)
		}
	})
	t.Logf("faults: %s", describe(c.sum.Faults))
	t.Logf("%d histories, %d operations, 0 illegal, 0 unknown, 0 lost, 0 done twice, %d decided after a refusal (%s)", c.sum.Histories, c.sum.Operations, c.sum.Late, c.file)
}

// sitting is one run of the campaign: several sites side by side, until one fails or
// the time is over.
type sitting struct {
	file   string
	began  time.Time
	failed atomic.Bool

	mu  sync.Mutex
	sum tally
}

// attackOne runs one site after another beside the others.
func (c *sitting) attackOne(t *testing.T) {
	t.Parallel()
	for time.Since(c.began) < *campaignFor && !c.failed.Load() {
		var one tally
		seed := seedOfRun()
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			one = oneTrial(t, seed, func(_, operations int, since time.Duration) bool {
				return operations >= *campaignOps || since > 5*time.Minute
			})
		})
		if !ok {
			c.failed.Store(true)
			return
		}
		if err := c.count(one); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *sitting) count(one tally) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.add(one)
	return domaintest.WriteCount(c.file, c.sum)
}

func (a *tally) add(b tally) {
	a.Histories, a.Operations, a.Late = a.Histories+b.Histories, a.Operations+b.Operations, a.Late+b.Late
	a.Restarts, a.Seconds = a.Restarts+b.Restarts, a.Seconds+b.Seconds
	if a.Faults == nil {
		a.Faults = map[string]int{}
	}
	for _, k := range slices.Sorted(maps.Keys(b.Faults)) {
		a.Faults[k] += b.Faults[k]
	}
	a.Newest = append(a.Newest, b.Newest...)
	a.Newest = a.Newest[max(0, len(a.Newest)-keepRuns):]
}

// TestSlotModel shows that histories which make no sense are found, and others are
// not.
func TestSlotModel(t *testing.T) {
	t.Parallel()
	type step struct {
		verb      verb
		on        string
		call, ret int
		status    int
		state     string
	}
	for name, c := range map[string]struct {
		steps []step
		legal bool
	}{
		"one after another":            {[]step{{launch, "a", 1, 2, 201, ""}, {release, "a", 3, 4, 202, ""}, {launch, "b", 5, 6, 201, ""}}, true},
		"leased twice":                 {[]step{{launch, "a", 1, 2, 201, ""}, {launch, "b", 3, 4, 201, ""}}, false},
		"leased before its release":    {[]step{{launch, "a", 1, 2, 201, ""}, {launch, "b", 3, 4, 201, ""}, {release, "a", 5, 6, 202, ""}}, false},
		"the release was on its way":   {[]step{{launch, "a", 1, 2, 201, ""}, {release, "a", 3, 8, 202, ""}, {launch, "b", 4, 6, 201, ""}}, true},
		"leased out of quarantine":     {[]step{{quarantine, "s", 1, 2, 202, "quarantined"}, {launch, "a", 3, 4, 201, ""}}, false},
		"wiped again":                  {[]step{{quarantine, "s", 1, 2, 202, "quarantined"}, {rewipe, "s", 3, 4, 202, "wiping"}, {launch, "a", 5, 6, 201, ""}}, true},
		"condemned, then leased":       {[]step{{launch, "a", 1, 2, 201, ""}, {quarantine, "s", 3, 4, 202, "condemned"}, {release, "a", 5, 6, 202, ""}, {launch, "b", 7, 8, 201, ""}}, false},
		"condemned, wiped again":       {[]step{{launch, "a", 1, 2, 201, ""}, {quarantine, "s", 3, 4, 202, "condemned"}, {release, "a", 5, 6, 202, ""}, {rewipe, "s", 7, 8, 202, "wiping"}, {launch, "b", 9, 10, 201, ""}}, true},
		"condemned twice":              {[]step{{launch, "a", 1, 2, 201, ""}, {quarantine, "s", 3, 4, 202, "condemned"}, {quarantine, "s", 5, 6, 202, "condemned"}}, true},
		"condemned, then quarantined":  {[]step{{launch, "a", 1, 2, 201, ""}, {quarantine, "s", 3, 4, 202, "condemned"}, {quarantine, "s", 5, 6, 202, "quarantined"}}, false},
		"condemned on the way out":     {[]step{{launch, "a", 1, 2, 201, ""}, {release, "a", 3, 4, 202, ""}, {quarantine, "s", 5, 6, 202, "condemned"}, {quarantine, "s", 7, 8, 202, "quarantined"}}, true},
		"condemned out, then leased":   {[]step{{launch, "a", 1, 2, 201, ""}, {release, "a", 3, 4, 202, ""}, {quarantine, "s", 5, 6, 202, "condemned"}, {launch, "b", 7, 8, 201, ""}}, false},
		"condemned and nobody's":       {[]step{{quarantine, "s", 1, 2, 202, "condemned"}}, false},
		"not quarantined, though":      {[]step{{quarantine, "s", 1, 2, 202, "quarantined"}, {rewipe, "s", 3, 4, 409, ""}}, false},
		"quarantined while it is used": {[]step{{launch, "a", 1, 2, 201, ""}, {quarantine, "s", 3, 4, 202, "quarantined"}}, false},
	} {
		var history []*operation
		for i, s := range c.steps {
			history = append(history, &operation{client: i, verb: s.verb, on: s.on, slots: []string{"s"}, call: time.Duration(s.call), ret: time.Duration(s.ret), answered: true, status: s.status, state: s.state})
		}
		if got := linearizable(history, limit); (got == porcupine.Ok) != c.legal {
			t.Errorf("%s: %s", name, got)
		}
	}
}
