package hostd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

func faults(t *testing.T, script string) []sim.Fault {
	t.Helper()
	f, err := sim.ParseFaults(strings.NewReader(script))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// aLifeOfASlot is what happens to two slots from approval to the second tenant.
func aLifeOfASlot(r *rack) {
	r.t.Helper()
	r.approve()
	r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0, 1)) })
	r.awaitSaid("started 1 boot 1", "alive 1 boot 1", "ready 1 boot 1")

	r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power = domain.PowerOff }))
	r.awaitSaid("stopped 1 boot 1")
	r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power, v.Boot = domain.PowerOn, 2 }))
	r.awaitSaid("ready 1 boot 2")

	r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Boot = 3 }))
	r.awaitSaid("ready 1 boot 3")

	r.site.place(func(d *domain.Desired) { release(d, 1) })
	r.awaitSaid("removed 1 boot 0", "wiped 0 gen 1 attempt 1 verified", "wiped 1 gen 1 attempt 1 verified")
	r.awaitWiped()
	r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(2, 0)) })
	r.awaitSaid("ready 2 boot 1")
	r.await("everything carried out and acknowledged", func() bool {
		r.site.mu.Lock()
		g := r.site.placed.Desired.Generation
		r.site.mu.Unlock()
		b := r.site.lastBeat()
		return b.Executed == g && b.Backlog == 0 && b.VMs == 1
	})
}

func TestLifeOfASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.start()
		aLifeOfASlot(r)
		want := []string{
			"inventory 2 slots", "wiped 0 gen 0 attempt 1 verified", "wiped 1 gen 0 attempt 1 verified",
			"started 1 boot 1", "alive 1 boot 1", "ready 1 boot 1", "stopped 1 boot 1",
			"started 1 boot 2", "alive 1 boot 2", "ready 1 boot 2",
			"started 1 boot 3", "alive 1 boot 3", "ready 1 boot 3",
			"removed 1 boot 0", "wiped 0 gen 1 attempt 1 verified", "wiped 1 gen 1 attempt 1 verified",
			"started 2 boot 1", "alive 2 boot 1", "ready 2 boot 1",
		}
		got := r.site.said()
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("said once each:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// Wherever the daemon is killed, the next one finds what runs, adopts it, and
// arrives at the same end, with nothing unsaid.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		killed := true
		t.Run(fmt.Sprint("call ", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 2})
				r.killAt = at
				r.start()
				aLifeOfASlot(r)
				killed = r.kills > 0
				for _, line := range []string{"started 1 boot 1", "stopped 1 boot 1", "started 1 boot 2", "started 1 boot 3", "removed 1 boot 0", "started 2 boot 1"} {
					if n := r.site.count(line); n < 1 || n > 2 {
						t.Errorf("%q was said %d times", line, n)
					}
				}
			})
		})
		if !killed || t.Failed() {
			if at < 40 {
				t.Fatalf("only %d calls to kill at", at)
			}
			return
		}
	}
}

// VMs run on while no daemon does, and a daemon's end stops none.
func TestStoppingTheDaemonStopsNoVM(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("started 1 boot 1")
		r.stop()
		if o, err := r.machine.Observe(t.Context()); err != nil || len(o) != 1 || !o[0].Running {
			t.Fatalf("after the daemon's end: %+v %v", o, err)
		}
		time.Sleep(time.Second) // it becomes ready, and nobody looks
		r.start()
		r.awaitSaid("alive 1 boot 1", "ready 1 boot 1")
		if n := r.site.count("started 1"); n != 1 {
			t.Errorf("adopted VM was reported started %d times", n)
		}
	})
}

func TestOlderGenerationIsRefusedAcrossRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.mu.Lock()
		old := r.site.placed
		r.site.mu.Unlock()
		old.Desired.VMs = nil
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		r.stop()
		r.site.mu.Lock()
		r.site.placed = old // a replica that lost its tail
		r.site.mu.Unlock()
		r.start()
		time.Sleep(5 * time.Minute)
		if o, _ := r.machine.Observe(t.Context()); len(o) != 1 || !o[0].Running {
			t.Fatalf("an older generation was executed: %+v", o)
		}
		if r.site.count("removed") != 0 {
			t.Error("and reported")
		}
	})
}

func TestTwoDigestsForOneGenerationQuarantine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		quarantined := func() {
			t.Helper()
			r.await("a heartbeat that says so", func() bool { return strings.Contains(r.site.lastBeat().Drift, "two digests") })
			if o, _ := r.machine.Observe(t.Context()); len(o) != 1 || !o[0].Running {
				t.Fatalf("quarantined, and yet: %+v", o)
			}
		}
		r.site.place(func(d *domain.Desired) {
			d.Generation-- // the same generation, other contents
			d.VMs = []domain.PlacedVM{vm(2, 1)}
		})
		r.awaitSaid("faulted host placement.two_digests")
		quarantined()
		r.stop()
		r.start() // the next life remembers
		r.site.place(func(*domain.Desired) {})
		time.Sleep(time.Minute)
		quarantined()
		if n := r.site.count("faulted"); n != 1 {
			t.Errorf("said %d times", n)
		}
		r.site.place(func(d *domain.Desired) { d.Epoch = 2; d.VMs = []domain.PlacedVM{vm(1, 0), vm(2, 1)} })
		r.awaitSaid("ready 2 boot 1") // an operator opened a new epoch
	})
}

func TestPlacementForAnotherHostIsIgnored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.Host = domain.HostID{8}; d.VMs = append(d.VMs, vm(1, 0)) })
		time.Sleep(time.Minute)
		if o, _ := r.machine.Observe(t.Context()); len(o) != 0 {
			t.Fatalf("executed: %+v", o)
		}
	})
}

func TestNothingIsDoneWithoutAMapOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.awaitSaid("inventory 1 slots") // before any placement
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.await("a proposal in its epoch", func() bool { return r.site.count("inventory") == 2 })
		r.site.place(func(d *domain.Desired) { d.SlotMap = domain.Digest{1} })
		r.await("drift", func() bool { return strings.Contains(r.site.lastBeat().Drift, "never proposed it") })
		time.Sleep(time.Minute)
		if o, _ := r.machine.Observe(t.Context()); len(o) != 0 {
			t.Fatalf("executed: %+v", o)
		}
	})
}

func TestFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script string
		want   []string // said
		never  []string // never said, by prefix
	}{
		"a start that fails once is tried again": {
			"start slot=0 times=1 fail=domain.start_failed", []string{"ready 1 boot 1"}, []string{"failed"},
		},
		"a start that keeps failing is reported": {
			"start slot=0 fail=domain.start_failed", []string{"failed 1 boot 1 domain.start_failed"}, []string{"started"},
		},
		"the tenant's doing is not tried again": {
			"disk slot=0 times=1 fail=image.unbootable theirs", []string{"failed 1 boot 1 image.unbootable theirs"}, []string{"started"},
		},
		"a step that hangs": {
			"network slot=0 slow=48h", []string{"failed 1 boot 1 network.timeout"}, []string{"started"},
		},
		"slow": {
			"any slow=2s", []string{"ready 1 boot 1"}, []string{"failed"},
		},
		"never ready": {
			"ready slot=0 never", []string{"started 1 boot 1", "alive 1 boot 1"}, []string{"ready", "failed"},
		},
		"no sign of life": {
			"alive slot=0 never", []string{"started 1 boot 1"}, []string{"alive", "ready", "failed"},
		},
		"a GPU falls off the bus": {
			"device slot=0 component=gpu after=3s detail=xid_79", []string{"ready 1 boot 1", "faulted gpu xid_79"}, nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 1, Faults: faults(t, tt.script)})
				r.start()
				r.approve()
				r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
				r.awaitSaid(tt.want...)
				time.Sleep(5 * time.Minute)
				for _, prefix := range tt.never {
					if n := r.site.count(prefix); n > 0 {
						t.Errorf("%q was said %d times", prefix, n)
					}
				}
				for _, line := range tt.want {
					if n := r.site.count(line); n != 1 {
						t.Errorf("%q was said %d times", line, n)
					}
				}
				// Whatever happened, the slot can be given back.
				r.site.place(func(d *domain.Desired) { release(d, 1) })
				r.awaitSaid("removed 1 boot 0", "wiped 0 gen 1 attempt 1 verified")
			})
		})
	}
}

func TestWipesThatFailNeverSayVerified(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ script, want string }{
		"it says so":            {"wipe slot=1 result=failed", "wiped 1 gen 0 attempt 1 failed"},
		"only the GPU":          {"wipe slot=1 component=gpu result=partial", "wiped 1 gen 0 attempt 1 partial"},
		"skipped":               {"wipe slot=1 result=skipped", "wiped 1 gen 0 attempt 1 skipped"},
		"it says nothing":       {"wipe slot=1 fail=nvme.timeout", "wiped 1 gen 0 attempt 1 failed"},
		"it never comes back":   {"wipe slot=1 slow=1000h", "wiped 1 gen 0 attempt 1 failed"},
		"it works at last":      {"wipe slot=1 times=2 fail=nvme.busy", "wiped 1 gen 0 attempt 1 verified"},
		"the other slot's luck": {"wipe slot=1 result=failed", "wiped 0 gen 0 attempt 1 verified"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 2, Faults: faults(t, tt.script)})
				r.limits.Deadlines = map[plan.Op]time.Duration{"wipe": time.Minute}
				r.start()
				m := r.proposed()
				r.site.place(func(d *domain.Desired) {
					d.SlotMap = m.Digest()
					for i := range uint32(2) {
						d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(i, 0), Attempt: 1, Policy: domain.WipeSanitize})
					}
				})
				r.awaitSaid(tt.want)
				time.Sleep(5 * time.Minute)
				if n := r.site.count("wiped 1"); n != 1 {
					t.Errorf("slot 1: %d reports", n)
				}
				if strings.HasPrefix(tt.want, "wiped 0") || strings.HasSuffix(tt.want, "verified") {
					return
				}
				if r.site.heard("wiped 1 gen 0 attempt 1 verified") {
					t.Error("verified")
				}
				// Another attempt is another wipe, with its own evidence.
				r.site.place(func(d *domain.Desired) { d.Wipes[0].Attempt = 2 })
				r.await("another attempt", func() bool { return r.site.count("wiped 1 gen 0 attempt 2") == 1 })
			})
		})
	}
}

// slowToEnd is a machine whose wipe, once begun, is not called off.
type slowToEnd struct {
	machine.Machine
	wipes *atomic.Int64
	began chan struct{}
}

func (m slowToEnd) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	if m.wipes.Add(1) == 1 {
		close(m.began)
		<-ctx.Done()
		time.Sleep(time.Second) // of the bubble
	}
	return m.Machine.Wipe(context.WithoutCancel(ctx), slot, w)
}

// A wipe that is through as the daemon ends is not done again by the next one.
func TestAWipeThatEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		var wipes atomic.Int64
		began := make(chan struct{})
		r.through = func(m machine.Machine) machine.Machine { return slowToEnd{m, &wipes, began} }
		r.start()
		m := r.proposed()
		r.site.place(func(d *domain.Desired) {
			d.SlotMap = m.Digest()
			d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(0, 0), Attempt: 1, Policy: domain.WipeAuto})
		})
		<-began
		r.stop()
		r.start()
		r.awaitSaid("wiped 0 gen 0 attempt 1 verified")
		time.Sleep(time.Minute)
		if n := wipes.Load(); n != 1 {
			t.Errorf("the slot was wiped %d times", n)
		}
	})
}

// A machine whose evidence names another drive is passed on as it is: the site
// judges. This host itself never takes the drive for clean.
func TestALieIsReportedAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1, Faults: faults(t, "wipe slot=0 component=nvme serial=SOMEBODY-ELSES")})
		r.start()
		m := r.proposed()
		r.site.place(func(d *domain.Desired) {
			d.SlotMap = m.Digest()
			d.Wipes = []domain.PlacedWipe{{Lease: lease(0, 0), Attempt: 1, Policy: domain.WipeAuto}}
		})
		r.awaitSaid("wiped 0 gen 0 attempt 1 verified")
		r.site.mu.Lock()
		w := r.site.reports[len(r.site.reports)-1].Wipe
		r.site.mu.Unlock()
		if w == nil || w.Devices[0].Serial != "SOMEBODY-ELSES" || w.Nonce != lease(0, 0).Nonce {
			t.Errorf("evidence %+v", w)
		}
		// A site that believes it, or another hand in the placements, gets no start.
		r.site.place(func(d *domain.Desired) { d.Wipes, d.VMs = nil, []domain.PlacedVM{vm(2, 0)} })
		r.awaitSaid("failed 2 boot 1 slot.not_wiped")
	})
}

func TestGuestPowersItselfOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		if err := r.machine.PowerOff(domain.VMID{1}); err != nil {
			t.Fatal(err)
		}
		r.awaitSaid("stopped 1 boot 1")
		time.Sleep(5 * time.Minute)
		if o, _ := r.machine.Observe(t.Context()); o[0].Running {
			t.Error("the daemon started it again by itself")
		}
	})
}

// With the control plane away, reports wait; when it is back, they arrive in order.
func TestReportsWaitForTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.mu.Lock()
		r.site.deaf = true
		r.site.mu.Unlock()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.await("a backlog", func() bool { return r.site.lastBeat().Backlog == 3 })
		r.stop()
		r.start()
		r.site.mu.Lock()
		r.site.deaf, r.site.mute = false, true
		r.site.mu.Unlock()
		r.awaitSaid("ready 1 boot 1")
		last := uint64(0)
		for _, rep := range r.site.reports {
			if rep.Number != last+1 {
				t.Errorf("report %d after %d", rep.Number, last)
			}
			last = rep.Number
		}
		if b := r.site.lastBeat(); b.Backlog != 3 {
			t.Errorf("a publish ack emptied the journal: backlog %d", b.Backlog)
		}
		r.site.mu.Lock()
		r.site.mute = false
		r.site.mu.Unlock()
		r.await("acknowledged after a repeat", func() bool { return r.site.lastBeat().Backlog == 0 })
	})
}

// The pauses between repeats grow while the site takes nothing. When it takes
// something, what it has not is sent again soon: it may have been lost on the way.
func TestReportsAreRepeatedSoonOnceSomeAreTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.mu.Lock()
		r.site.mute = true
		taken := r.site.placed.Acked
		r.site.mu.Unlock()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.await("a backlog", func() bool { return r.site.lastBeat().Backlog == 3 })
		time.Sleep(20 * time.Minute)
		r.site.mu.Lock()
		r.site.mute = false
		r.site.placed.Acked = taken + 1
		r.site.tell()
		r.site.mu.Unlock()
		at := time.Now()
		r.await("the others come again", func() bool { return r.site.lastBeat().Backlog == 0 })
		if took := time.Since(at); took > 30*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// A site that acknowledges nothing fills the journal. Then the host rests, rather
// than do what it could not report; what runs goes on.
func TestFullJournalRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.limits.Journal, r.limits.Parallel = 48<<10, 2
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		r.site.mu.Lock()
		r.site.deaf = true
		r.site.mu.Unlock()
		full := func() bool { return strings.Contains(r.site.lastBeat().Drift, "journal is full") }
		attempt := uint32(0)
		r.await("a full journal", func() bool {
			attempt++
			r.site.place(func(d *domain.Desired) {
				d.Wipes = []domain.PlacedWipe{{Lease: lease(1, 1), Attempt: attempt, Policy: domain.WipeAuto}}
			})
			time.Sleep(time.Second)
			return full()
		})
		backlog := r.site.lastBeat().Backlog
		time.Sleep(10 * time.Minute)
		if b := r.site.lastBeat(); b.Backlog != backlog || !full() {
			t.Errorf("went on: %+v, backlog was %d", b, backlog)
		}
		if o, _ := r.machine.Observe(t.Context()); len(o) != 1 || !o[0].Running {
			t.Errorf("what ran does not run on: %+v", o)
		}
		r.site.mu.Lock()
		r.site.deaf = false
		r.site.mu.Unlock()
		r.awaitWiped()
		r.await("an empty journal", func() bool { b := r.site.lastBeat(); return b.Backlog == 0 && b.Drift == "" })
	})
}

func TestConsoleAndSeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		doc := domain.Digest{9}
		r.site.vault[doc] = hostd.VaultReply{SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#cloud-config\n")}
		r.start()
		r.approve()
		v := vm(1, 0)
		v.UserData = doc
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, v) })
		r.awaitSaid("ready 1 boot 1")
		read := func(id domain.VMID, offset int64) (hostd.ConsoleReply, error) {
			req, _ := json.Marshal(hostd.ConsoleRequest{VM: id, Offset: offset, Max: 100})
			b, err := r.site.console(context.Background(), req)
			var reply hostd.ConsoleReply
			if err == nil {
				err = json.Unmarshal(b, &reply)
			}
			return reply, err
		}
		text, offset := "", int64(0)
		for {
			reply, err := read(v.VM, offset)
			if err != nil {
				t.Fatal(err)
			}
			if len(reply.Data) == 0 {
				break
			}
			text, offset = text+string(reply.Data), reply.Next
		}
		for _, want := range []string{"trainer login:", "ssh-ed25519 AAAA me", "#cloud-config"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q on the console:\n%s", want, text)
			}
		}
		if _, err := read(domain.VMID{2}, 0); err == nil {
			t.Error("a console of a VM that is not here")
		}
	})
}
