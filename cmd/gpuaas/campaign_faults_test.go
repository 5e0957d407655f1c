package main_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A fault begins, lasts while clients go on, and ends. Its end leaves nothing of it; one
// without an end is over at once.
type fault struct {
	kind string
	do   func(tr *trial, r *rand.Rand) (end func(), happened bool)
}

// faults are all kinds. Kills come twice as often as the others: they are what most is
// expected of.
var faults = slices.Concat(kills, kills, pauses, links("log", func(tr *trial) []*proxy { return tr.toLog }), links("models", func(tr *trial) []*proxy { return tr.toModels }),
	links("hosts", func(tr *trial) []*proxy { return tr.toHosts }), links("members", func(tr *trial) []*proxy { return tr.toWriter }))

// kills end processes; their supervisors start them again.
var kills = []fault{
	{"kill writer", func(tr *trial, _ *rand.Rand) (func(), bool) { return killed(tr.members[tr.writer()]) }},
	{"hand over", func(tr *trial, _ *rand.Rand) (func(), bool) {
		return nil, tr.members[tr.writer()].signal(syscall.SIGTERM)
	}},
	{"kill standby", func(tr *trial, r *rand.Rand) (func(), bool) { return killed(tr.standby(r)) }},
	{"kill hostd", func(tr *trial, _ *rand.Rand) (func(), bool) { return killed(tr.hostd) }},
	{"kill one NATS server", func(tr *trial, r *rand.Rand) (func(), bool) { return killed(tr.nats[r.IntN(trialNATS)]) }},
	{"kill all NATS servers", func(tr *trial, _ *rand.Rand) (func(), bool) { return killed(tr.nats...) }},
	{"kill Postgres", func(tr *trial, _ *rand.Rand) (func(), bool) { return nil, tr.postgres.signal(syscall.SIGKILL) }},
	{"kill Postgres in a commit", func(tr *trial, _ *rand.Rand) (func(), bool) {
		return nil, tr.postgres.killInCommit(2*time.Second) == "commit"
	}},
}

// pauses stop processes for a while, and they do not know it.
var pauses = []fault{
	{"stop writer", func(tr *trial, _ *rand.Rand) (func(), bool) { return stopped(tr.members[tr.writer()]) }},
	{"stop standby", func(tr *trial, r *rand.Rand) (func(), bool) { return stopped(tr.standby(r)) }},
	{"stop hostd", func(tr *trial, _ *rand.Rand) (func(), bool) { return stopped(tr.hostd) }},
	{"stop one NATS server", func(tr *trial, r *rand.Rand) (func(), bool) { return stopped(tr.nats[r.IntN(trialNATS)]) }},
	{"stop all NATS servers", func(tr *trial, _ *rand.Rand) (func(), bool) { return stopped(tr.nats...) }},
	{"stop Postgres", func(tr *trial, _ *rand.Rand) (func(), bool) {
		return func() { tr.postgres.signal(syscall.SIGCONT) }, tr.postgres.signal(syscall.SIGSTOP)
	}},
}

// links are the troubles of one kind of connection.
func links(name string, of func(*trial) []*proxy) (out []fault) {
	for _, d := range []trouble{cut, delay, slow, stall, halfOpen} {
		out = append(out, fault{fmt.Sprintf("%v %s", d, name), func(tr *trial, r *rand.Rand) (func(), bool) {
			all := of(tr)
			if len(all) > 1 && r.IntN(2) == 0 { // one way of several
				all = all[r.IntN(len(all)):][:1]
			}
			for _, p := range all {
				p.suffers(d)
			}
			return func() {
				for _, p := range all {
					p.suffers(calm)
				}
			}, true
		}})
	}
	return out
}

// killed is kill -9; the supervisor starts it again.
func killed(all ...*daemon) (end func(), happened bool) {
	for _, d := range all {
		happened = d.signal(syscall.SIGKILL) || happened
	}
	return nil, happened
}

// stopped stands still until the end, and does not know that it did.
func stopped(all ...*daemon) (end func(), happened bool) {
	for _, d := range all {
		happened = d.signal(syscall.SIGSTOP) || happened
	}
	return func() {
		for _, d := range all {
			d.signal(syscall.SIGCONT)
		}
	}, happened
}

// standby is a member that does not decide.
func (tr *trial) standby(r *rand.Rand) *daemon {
	w := tr.writer()
	return tr.members[(w+1+r.IntN(trialMembers-1))%trialMembers]
}

// The times of a fault.
const (
	shortestFault = 300 * time.Millisecond
	longestFault  = 4 * time.Second
	faultRest     = 1500 * time.Millisecond // what clients get done before the next one, at most
	restAcks      = 40
)

// attack has faults follow one another, sometimes two at once, until it has to end:
// the kinds in a seeded order, each as often as the others. It returns how often each
// happened.
func (tr *trial) attack(c *clients, r *rand.Rand, over func(done int) bool) (counts map[string]int) {
	counts = map[string]int{}
	var order []int
	next := func() (func(), string) {
		if len(order) == 0 {
			order = r.Perm(len(faults))
		}
		f := faults[order[0]]
		order = order[1:]
		end, happened := f.do(tr, r)
		if happened {
			counts[f.kind]++
		}
		return end, f.kind
	}
	for done := 0; !over(done); done++ {
		began, acked := time.Since(c.began), c.acked.Load()
		end, kind := next()
		ends := []func(){end}
		if r.IntN(4) == 0 {
			c.wait(tr, shortestFault)
			second, other := next()
			ends, kind = append(ends, second), kind+" and "+other
		}
		ends = slices.DeleteFunc(ends, func(end func()) bool { return end == nil })
		lasts := shortestFault
		if len(ends) > 0 {
			lasts += time.Duration(r.Int64N(int64(longestFault - shortestFault)))
		}
		c.wait(tr, lasts)
		for _, end := range ends {
			end()
		}
		tr.t.Logf("%v to %v: %s; %d answers meanwhile", began.Round(time.Millisecond), time.Since(c.began).Round(time.Millisecond), kind, c.acked.Load()-acked)
		for rest, acks := time.Now().Add(faultRest), c.acked.Load()+restAcks; time.Now().Before(rest) && c.acked.Load() < acks; {
			c.wait(tr, pollEvery)
		}
	}
	return counts
}

// wait lets the clients go on for a while: how long a fault lasts is what is tested.
func (c *clients) wait(tr *trial, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-tr.t.Context().Done():
	}
}

// describe is one line of counts.
func describe(counts map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, counts[k]))
	}
	return strings.Join(parts, ", ")
}
