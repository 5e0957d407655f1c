package main_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

const (
	settleLimit = 90 * time.Second // after the last fault
	judgeLimit  = 60 * time.Second // of one history
)

// place is where a command is in the log.
type place struct {
	n     uint64
	index int
	body  *domain.Decision
}

// verdict is what a run came to.
type verdict struct {
	operations int
	late       int // refused at last, and done by a request before
}

// judge wants everything to hold, after the faults have ended and every command is
// answered.
func (tr *trial) judge(history []*operation) (v verdict) {
	t := tr.t
	t.Helper()
	tr.settle()
	commits := tr.commits()
	v.operations = len(history)
	history, v.late = tr.once(history, commits)
	inOrder(t, history, commits)
	switch got := linearizable(history, judgeLimit); got {
	case porcupine.Illegal:
		t.Errorf("the history is not linearizable:\n%s", culprits(history))
	case porcupine.Unknown:
		t.Errorf("whether the history is linearizable was not found out in %v", judgeLimit)
	}
	tr.leases(commits)
	tr.accounted(commits)
	if out, stderr, code := tr.tool("log", "verify"); code != 0 || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("log verify: exit code %d: %s%s", code, out, stderr)
	}
	if out, stderr, code := tr.tool("projections", "reconcile", "--log-level", "error"); code != 0 || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("reconcile: exit code %d: %s%s", code, out, stderr)
	}
	tr.feedWhole(commits)
	return v
}

// read asks until it is answered: the last fault is over, its traces may not be.
func (tr *trial) read(by caller, path string, out any) {
	tr.t.Helper()
	eventually(tr.t, limit, path, func() error {
		a, err := by.ask("GET", path, nil)
		if err != nil || a.status != 200 {
			return fmt.Errorf("%v %+v", err, a)
		}
		return json.Unmarshal(a.body, out)
	})
}

// feedWhole wants every event of the log in the feed, once and in order.
func (tr *trial) feedWhole(commits []*domain.Commit) {
	t := tr.t
	t.Helper()
	last := commits[len(commits)-1].Decisions
	events := last[len(last)-1].Events
	want, number := events[len(events)-1].Number, uint64(0)
	op := tr.sites[len(tr.sites)-1].operator()
	for after := ""; number < want; {
		var page struct {
			Items []event
			Next  string `json:"next_cursor"`
		}
		tr.read(op, "/v1/events?limit=100&after="+after, &page)
		for _, e := range page.Items {
			if number++; e.Number != number {
				t.Fatalf("event %d where %d should be", e.Number, number)
			}
		}
		if len(page.Items) == 0 {
			t.Fatalf("the feed ends at event %d, the log at %d", number, want)
		}
		after = page.Next
	}
}

// settle waits until the site is at rest: one writer, every member ready, no slot and no
// allocation on its way.
func (tr *trial) settle() {
	t := tr.t
	t.Helper()
	eventually(t, settleLimit, "one writer and ready standbys", func() error {
		roles := map[string]int{}
		for i := range tr.sites {
			role, ready, why := tr.role(i)
			if !ready {
				return fmt.Errorf("member %d: %s", i, why)
			}
			roles[role]++
		}
		return errNo(roles["writer"] == 1 && roles["standby"] == len(tr.sites)-1, fmt.Sprint(roles))
	})
	op := tr.sites[0].operator()
	explain := time.Now().Add(settleLimit - 10*time.Second)
	eventually(t, settleLimit, "slots and VMs at rest", func() error {
		if time.Now().After(explain) {
			explain = explain.Add(settleLimit)
			tr.explain(op)
		}
		a, err := op.ask("GET", "/v1/slots?limit=100&at_least="+fmt.Sprint(tr.head()), nil)
		if err != nil || a.status != 200 {
			return fmt.Errorf("%v %+v", err, a)
		}
		var page struct{ Items []slot }
		a.into(t, &page)
		states := map[string]int{}
		for _, s := range page.Items {
			states[s.State]++
		}
		for _, te := range tr.tenants {
			for _, a := range tr.allocations(te) {
				if a.State != "running" && a.State != "stopped" {
					return fmt.Errorf("%s is %s (%s); slots: %v", a.ID, a.State, a.Reason, states)
				}
			}
		}
		return errNo(states["available"]+states["active"]+states["quarantined"] == trialHosts*trialSlots, fmt.Sprint(states))
	})
}

// explain tells what is known of the hosts whose slots are on their way: what they say,
// what they are told, and what waits for whom.
func (tr *trial) explain(op caller) {
	restless := map[string]bool{}
	var slots []string
	for _, s := range list[slot](op, "/v1/slots") {
		if s.State != "available" && s.State != "active" && s.State != "quarantined" {
			restless[s.HostID] = true
			slots = append(slots, s.ID)
			tr.t.Logf("slot %s of %s is %s", s.ID, s.HostID, s.State)
		}
	}
	commits, _, _ := tr.tool("log", "export")
	for _, id := range slots {
		tr.t.Logf("the log says of %s:\n%s", id, strings.Join(newest(commits, id, 12), ""))
	}
	if tr.hostd == nil {
		return
	}
	nc, err := nats.Connect(tr.natsURLs, nats.UserCredentials(tr.trust.CredsFile(server.Admin)), nats.CustomInboxPrefix(streams.ControlInbox))
	if err != nil {
		tr.t.Log(err)
		return
	}
	defer nc.Close()
	ask := func(subject string) {
		m, err := nc.Request(subject, nil, answerLimit)
		if err != nil {
			tr.t.Logf("%s: %v", subject, err)
			return
		}
		tr.t.Logf("%s: %s", subject, m.Data)
	}
	names := streams.Names(trialName)
	ask("$JS.API.CONSUMER.INFO." + names.Reports() + "." + streams.ReportsConsumer)
	for host := range restless {
		a, err := op.ask("GET", "/v1/hosts/"+host, nil)
		tr.t.Logf("host %s: %v %+v", host, err, a)
		ask("$JS.API.CONSUMER.INFO." + names.Placements() + "." + host)
		said, _ := os.ReadFile(tr.hostd.log)
		tr.t.Logf("%s said:\n%s", host, strings.Join(newest(string(said), host, 60), ""))
	}
	if len(restless) > 0 { // where its goroutines are; it ends with that, and is started again
		before := tr.hostd.started()
		tr.hostd.signal(syscall.SIGQUIT)
		eventually(tr.t, limit, "hostd to say where it is", func() error { return errNo(tr.hostd.started() > before, "it runs") })
		tr.t.Errorf("hostd, which came to no rest:\n%s", tr.hostd.said(200_000))
	}
}

// newest are the last lines of a text that contain a word.
func newest(text, word string, n int) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

func (tr *trial) head() uint64 {
	a, err := tr.tenants[0].ask("GET", "/v1/tenants/"+tr.tenants[0].id+"/balance", nil)
	if err != nil {
		return 0
	}
	return a.seq
}

// allocations are a tenant's live ones.
func (tr *trial) allocations(te tenant) []allocation {
	var page struct {
		Items []allocation
		Next  string `json:"next_cursor"`
	}
	tr.read(te.caller, "/v1/projects/"+te.project+"/allocations?live=true&limit=100", &page)
	if page.Next != "" {
		tr.t.Fatal("more allocations than slots")
	}
	return page.Items
}

// once wants every command that was answered in the log exactly once, if it changed
// something, and nothing in the log that nobody asked for or that was refused. It returns
// the history with what nobody was told of.
func (tr *trial) once(history []*operation, commits []*domain.Commit) (known []*operation, late int) {
	t := tr.t
	t.Helper()
	log := map[domain.Digest][]place{}
	for _, c := range commits {
		for i := range c.Decisions {
			if key := c.Decisions[i].Command.IdemKey; !key.IsZero() {
				log[key] = append(log[key], place{c.N, i, &c.Decisions[i]})
			}
		}
	}
	known = slices.Clone(history)
	for _, o := range history {
		found := log[o.key]
		delete(log, o.key)
		already := o.verb == rewipe || o.verb == quarantine // "it is so" writes nothing
		switch {
		case len(found) > 1:
			t.Errorf("done %d times, in commits %d and %d: %v", len(found), found[0].n, found[1].n, o)
		case len(found) == 1 && !o.accepted() && o.unsure:
			// A request that was given up was decided after the last one was refused: that
			// is how idempotency is meant, and the history has to know.
			late++
			o.becomesLate(found[0])
		case len(found) == 1 && !o.accepted():
			t.Errorf("refused, and done in commit %d: %v", found[0].n, o)
		case len(found) == 1 && found[0].n > o.seq && already && o.unsure:
			// The last request found nothing to do, and was answered; one that was given up
			// was decided after it. They are two.
			late++
			given := *o
			given.becomesLate(found[0])
			known = append(known, &given)
			o.key = domain.Digest{}
		case len(found) == 1 && found[0].n != o.seq:
			t.Errorf("done in commit %d: %v", found[0].n, o)
		case len(found) == 0 && o.accepted() && !already:
			t.Errorf("acknowledged, and not in the log: %v", o)
		}
	}
	for key, found := range log {
		t.Errorf("commit %d has %s under key %v, which no client sent", found[0].n, found[0].body.Command.Body.CommandType(), key)
	}
	return known, late
}

// becomesLate takes what the log says for the answer that nobody got.
func (o *operation) becomesLate(p place) {
	o.ret, o.status, o.code, o.seq = math.MaxInt64, 200, "", p.n
	for _, e := range p.body.Events {
		switch b := e.Body.(type) {
		case *domain.AllocationPlaced:
			o.on = b.ID.String()
			for _, vm := range b.VMs {
				for _, s := range vm.Slots {
					o.slots = append(o.slots, s.String())
				}
			}
		case *domain.SlotCondemned:
			o.state = "condemned"
		case *domain.SlotQuarantined:
			o.state = "quarantined"
		}
	}
}

// inOrder wants what was answered before another command was asked for to stand before
// it in the log, for all commands of all clients.
func inOrder(t interface{ Errorf(string, ...any) }, history []*operation, commits []*domain.Commit) {
	at := map[domain.Digest]int{}
	for _, c := range commits {
		for i := range c.Decisions {
			if key := c.Decisions[i].Command.IdemKey; !key.IsZero() {
				at[key] = len(at)
			}
		}
	}
	var done []*operation
	for _, o := range history {
		if _, ok := at[o.key]; ok && o.accepted() {
			done = append(done, o)
		}
	}
	asked, answered := slices.Clone(done), slices.Clone(done)
	slices.SortFunc(asked, func(a, b *operation) int { return cmp.Compare(a.call, b.call) })
	slices.SortFunc(answered, func(a, b *operation) int { return cmp.Compare(a.ret, b.ret) })
	var newest *operation
	for _, o := range asked {
		for len(answered) > 0 && answered[0].ret < o.call {
			if newest == nil || at[answered[0].key] > at[newest.key] {
				newest = answered[0]
			}
			answered = answered[1:]
		}
		if newest != nil && at[newest.key] > at[o.key] {
			t.Errorf("in the log the later one stands first:\n%v\n%v", newest, o)
		}
	}
}

// culprits are the commands of the first slot whose history makes no sense.
func culprits(history []*operation) string {
	var lines []string
	for _, part := range slotModel.Partition(slotHistory(history)) {
		if porcupine.CheckOperations(slotModel.ToModel(), part) {
			continue
		}
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for _, o := range part {
			lines = append(lines, fmt.Sprintf("%v to %v: %+v: %+v", time.Duration(o.Call), time.Duration(o.Return), o.Input, o.Output))
		}
		break
	}
	return strings.Join(lines, "\n")
}

// leases reads from the events alone that no slot had two holders, none was given
// away without a verified wipe after the one before, and no VM was touched: each
// was started as often as somebody asked.
func (tr *trial) leases(commits []*domain.Commit) {
	t := tr.t
	t.Helper()
	holder, wiped := map[domain.SlotID]domain.AllocationID{}, map[domain.SlotID]bool{}
	leased := map[domain.AllocationID][]domain.SlotID{}
	starts, asked := map[domain.AllocationID]int{}, map[domain.AllocationID]int{}
	gone, released := map[domain.AllocationID]bool{}, map[domain.AllocationID]bool{}
	for _, c := range commits {
		for i := range c.Decisions {
			for _, e := range c.Decisions[i].Events {
				switch b := e.Body.(type) {
				case *domain.AllocationPlaced:
					asked[b.ID]++
					for _, vm := range b.VMs {
						for _, s := range vm.Slots {
							if h, taken := holder[s]; taken || !wiped[s] {
								t.Errorf("commit %d leases slot %v to %v: holder %v, wiped %v", c.N, s, b.ID, h, wiped[s])
							}
							holder[s], wiped[s] = b.ID, false
							leased[b.ID] = append(leased[b.ID], s)
						}
					}
				case *domain.AllocationReleasing:
					if b.Reason != "requested" {
						t.Errorf("commit %d: %v was released because of %q", c.N, b.ID, b.Reason)
					}
					gone[b.ID] = true
					for _, s := range leased[b.ID] {
						delete(holder, s)
					}
				case *domain.AllocationReleased:
					released[b.ID] = true
				case *domain.AllocationStartRequested:
					asked[b.ID]++
				case *domain.VMStarted:
					starts[b.Allocation]++
				case *domain.VMLost:
					t.Errorf("commit %d: VM %v was lost: %s", c.N, b.VM, b.Reason)
				case *domain.VMOverdue:
					t.Errorf("commit %d: VM %v is overdue: %s", c.N, b.VM, b.Reason)
				case *domain.SlotWipeStarted:
					for _, s := range b.Slots {
						wiped[s.Slot] = false
					}
				case *domain.SlotWiped:
					wiped[b.Slot] = true
				case *domain.SlotQuarantined:
					if !strings.HasPrefix(b.Reason, "operator.") && b.Reason != "condemned" {
						t.Errorf("commit %d: slot %v went into quarantine: %s %s", c.N, b.Slot, b.Component, b.Reason)
					}
				}
			}
		}
	}
	for id := range gone {
		if !released[id] {
			t.Errorf("%v, started %d times, is not released", id, starts[id])
		}
	}
	for id, n := range asked {
		if starts[id] > n || !gone[id] && starts[id] == 0 {
			t.Errorf("%v started %d times, asked for were %d", id, starts[id], n)
		}
	}
}

// accounted wants every slot in one place: what the world, the read models, the hosts
// and the tenants' allocations say of it agrees.
func (tr *trial) accounted(commits []*domain.Commit) {
	t := tr.t
	t.Helper()
	op := tr.sites[0].operator()
	least := commits[len(commits)-1].N
	holds := map[string]string{}
	running := map[string]bool{}
	for _, te := range tr.tenants {
		for _, a := range tr.allocations(te) {
			for _, vm := range a.VMs {
				running[vm.ID] = a.State == "running"
				for _, s := range vm.SlotIDs {
					if holds[s] != "" {
						t.Errorf("slot %s belongs to %s and %s", s, holds[s], a.ID)
					}
					holds[s] = a.ID
				}
			}
		}
	}
	maps.DeleteFunc(running, func(_ string, on bool) bool { return !on })
	var page struct{ Items []slot }
	tr.read(op, fmt.Sprintf("/v1/slots?limit=100&at_least=%d", least), &page)
	all := page.Items
	if len(all) != trialHosts*trialSlots {
		t.Errorf("%d slots, want %d", len(all), trialHosts*trialSlots)
	}
	for _, s := range all {
		if (s.State == "active") != (holds[s.ID] != "") {
			t.Errorf("slot %s is %s, its allocation is %q", s.ID, s.State, holds[s.ID])
		}
	}
	eventually(t, limit, "the hosts to run exactly these VMs", func() error {
		have := simVMs(t, tr.dir)
		return errNo(reflect.DeepEqual(have, running), fmt.Sprintf("%d VMs run, want %d", len(have), len(running)))
	})
	for i, s := range tr.sites {
		var other struct{ Items []slot }
		tr.read(caller{s, op.key}, fmt.Sprintf("/v1/slots?limit=100&at_least=%d", least), &other)
		if !reflect.DeepEqual(other.Items, all) {
			t.Errorf("member %d shows other slots than the first", i)
		}
	}
}
