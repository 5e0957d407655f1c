package hostd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// A new epoch asks what the host holds. Until the site has heard, and while it says that
// a VM is to be kept, the VM runs on, across restarts of the daemon; what was reported
// is reported again.
func TestNewEpochAccountsAndKeeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 3})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = []domain.PlacedVM{vm(1, 0), vm(2, 1)} })
		r.await("two VMs", func() bool { return r.running(1) && r.running(2) })
		r.awaitSaid("ready 1 boot 1", "ready 2 boot 1")
		before := len(r.site.said())

		r.site.place(func(d *domain.Desired) {
			d.Epoch, d.Generation, d.Account, d.VMs, d.Wipes = 2, 1, true, nil, nil
		})
		var says *domain.HoldingsReport
		r.await("the account", func() bool { says = r.site.holdings(); return says != nil })
		if len(says.VMs) != 2 || says.VMs[0].VM != (domain.VMID{1}) || !says.VMs[1].Running || says.Epoch != 1 || says.Generation == 0 {
			t.Errorf("%+v", says)
		}
		if s := says.Slots; len(s) != 3 || s[0].Generation != 1 || s[1].Generation != 2 || !s[1].Dirty || s[2].Dirty || s[1].Slot != (domain.SlotID{2}) {
			t.Errorf("%+v", says.Slots)
		}
		r.stop()
		r.start() // the next life waits, too
		time.Sleep(time.Minute)
		if !r.running(1) || !r.running(2) {
			t.Fatal("a VM ended while the site asked")
		}

		r.site.place(func(d *domain.Desired) {
			d.Account, d.VMs, d.Keep = false, []domain.PlacedVM{vm(1, 0)}, []domain.VMID{{2}}
			d.Wipes = []domain.PlacedWipe{{Lease: lease(1, 9), Attempt: 1, Policy: domain.WipeAuto}} // not under its feet
		})
		r.await("the boot said again", func() bool { return count(r.site.said()[before:], "ready 1 boot 1") == 1 })
		r.stop()
		r.start()
		time.Sleep(time.Minute)
		if !r.running(1) || !r.running(2) {
			t.Fatal("a VM that is to be kept was removed")
		}

		r.site.place(func(d *domain.Desired) { d.Keep = nil })
		r.await("the unknown VM to be gone", func() bool { return r.running(1) && !r.running(2) })
		r.awaitWiped()
	})
}

// A log that lost its end and went on acknowledges less than it had: it is not followed,
// and the site is told. The epoch that is opened for it acknowledges no more, also to a
// host whose next life begins before it has said what it holds.
func TestLogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = []domain.PlacedVM{vm(1, 0)} })
		r.awaitSaid("ready 1 boot 1")

		r.site.loseEnd(1)
		r.site.place(func(d *domain.Desired) { d.VMs = nil })
		r.await("a heartbeat that says so", func() bool { return r.site.lastBeat().Outrun.N == 77 })
		if !r.running(1) {
			t.Fatal("it was followed")
		}

		r.site.place(func(d *domain.Desired) { d.Epoch, d.Generation, d.Account = 2, 1, true })
		r.await("the account", func() bool { return r.site.holdings() != nil })
		r.stop()
		if err := os.Remove(filepath.Join(r.dir, "placement")); err != nil { // nothing is kept for the next life
			t.Fatal(err)
		}
		r.start()
		r.site.place(func(d *domain.Desired) { d.Generation = 2 })
		r.await("the new generation", func() bool { b := r.site.lastBeat(); return b.Generation == 2 && b.Outrun.N == 0 })
		if !r.running(1) {
			t.Fatal("a VM ended while the site asked")
		}
	})
}

// The site may have an account that the host does not remember: its disk lost what it had
// made durable. What was reported before the epoch is said again all the same, once.
func TestForgottenAccount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = []domain.PlacedVM{vm(1, 0)} })
		r.awaitSaid("ready 1 boot 1")
		time.Sleep(time.Minute)
		before := len(r.site.said())

		r.site.loseEnd(r.site.acked())
		r.site.place(func(d *domain.Desired) { d.Epoch, d.Generation, d.Account, d.VMs = 2, 1, true, nil })
		r.await("the account", func() bool { return r.site.holdings() != nil })
		r.stop()
		r.tearJournal()
		r.site.place(func(d *domain.Desired) { d.Account, d.VMs = false, []domain.PlacedVM{vm(1, 0)} })
		for range 2 {
			r.start()
			time.Sleep(time.Minute)
			r.stop()
		}
		if said := r.site.said()[before:]; count(said, "ready 1 boot 1") != 1 {
			t.Errorf("%q", said)
		}
	})
}

// A report of an earlier journal that came late has ended this one, which the host was not
// told of before: it begins anew when the site has gone on for a while without it, not
// before.
func TestEndedJournal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.site.acknowledgeOther(1)
		r.start()
		r.await("a proposal", func() bool { return len(r.site.journals()) == 1 })
		r.site.place(func(*domain.Desired) {})
		time.Sleep(time.Hour)
		r.site.place(func(*domain.Desired) {}) // the site is where it was
		time.Sleep(time.Minute)
		if n := len(r.site.journals()); n != 1 {
			t.Fatalf("%d journals", n)
		}
		r.site.acknowledgeOther(2)
		r.site.place(func(*domain.Desired) {})
		r.await("the proposal from another journal", func() bool { return len(r.site.journals()) == 2 })
		time.Sleep(time.Hour)
		if n := len(r.site.journals()); n != 2 {
			t.Fatalf("%d journals", n)
		}
	})
}

// acknowledgeOther has the site follow another journal of the host, at commit n.
func (s *site) acknowledgeOther(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute, s.placed.Journal, s.placed.Acked, s.placed.From = true, domain.JournalID{9}, 1, domain.Head{N: n, Hash: domain.Digest{byte(n)}}
}

// journals are those that reports came from.
func (s *site) journals() map[domain.JournalID]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[domain.JournalID]bool{}
	for _, r := range s.reports {
		out[r.Journal] = true
	}
	return out
}

// tearJournal takes the newest record off the journal, and what is kept for the next life.
func (r *rack) tearJournal() {
	r.t.Helper()
	file := filepath.Join(r.dir, "journal")
	info, err := os.Stat(file)
	if err == nil {
		err = errors.Join(os.Truncate(file, info.Size()-1), os.Remove(filepath.Join(r.dir, "placement")))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// A slot that is being wiped, or whose wipe failed, is said to be used: the log that is
// left may call it free.
func TestAccountOfAWipe(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]string{"under way": "wipe slot=1 slow=5h", "failed": "wipe slot=1 result=failed"} {
		t.Run(name, func(t *testing.T) { t.Parallel(); accountOfAWipe(t, fault) })
	}
}

func accountOfAWipe(t *testing.T, fault string) {
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2, Faults: faults(t, fault)})
		r.start()
		m := r.proposed()
		r.site.place(func(d *domain.Desired) {
			d.SlotMap = m.Digest()
			d.Wipes = []domain.PlacedWipe{{Lease: lease(0, 0), Attempt: 1, Policy: domain.WipeAuto}, {Lease: lease(1, 9), Attempt: 1, Policy: domain.WipeAuto}}
		})
		r.awaitSaid("wiped 0 gen 0 attempt 1 verified")
		time.Sleep(time.Minute)
		r.site.place(func(d *domain.Desired) { d.Epoch, d.Generation, d.Account, d.Wipes = 2, 1, true, nil })
		r.await("the account", func() bool { return r.site.holdings() != nil })
		if s := r.site.holdings().Slots; len(s) != 2 || s[0].Dirty || !s[1].Dirty {
			t.Errorf("%+v", s)
		}
	})
}

// loseEnd takes back what was acknowledged after report n, and acknowledges no more.
func (s *site) loseEnd(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute, s.placed.Acked, s.placed.From = true, n, domain.Head{N: 77, Hash: domain.Digest{7}}
}

func (s *site) acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placed.Acked
}

func (r *rack) running(n byte) bool {
	r.t.Helper()
	observed, err := r.machine.Observe(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.ContainsFunc(observed, func(o machine.Observed) bool { return o.VM[0] == n && o.Running })
}

// holdings is the last account, nil if there was none.
func (s *site) holdings() (h *domain.HoldingsReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		if r.Holdings != nil {
			h = r.Holdings
		}
	}
	return h
}

func count(lines []string, want string) (n int) {
	for _, l := range lines {
		if l == want {
			n++
		}
	}
	return n
}

// A host that has lost its journal does not know what is on its drives: whatever the site
// takes for clean is wiped here before a VM comes there. A journal of a hostd before that
// rule has met every drive that it has.
func TestForgottenDrives(t *testing.T) {
	t.Parallel()
	for name, older := range map[string]bool{"a lost journal": false, "an older journal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { forgottenDrives(t, older) })
		})
	}
}

func forgottenDrives(t *testing.T, older bool) {
	r := newRack(t, sim.Options{Slots: 2})
	r.firstVM()
	r.stop()
	if err := os.Remove(filepath.Join(r.dir, "journal")); err != nil {
		t.Fatal(err)
	}
	if older {
		j, err := journal.Open(journal.Options{Dir: r.dir, Sign: func([]byte) ([]byte, error) { return nil, nil }})
		if err == nil {
			err = errors.Join(j.Note(journal.Change{Set: map[string]string{"map": r.site.proposal().Digest().String()}}), j.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(2, 1)) })
	if older {
		r.awaitSaid("ready 2 boot 1")
		return
	}
	r.awaitSaid("failed 2 boot 1 slot.not_wiped")
	r.site.place(func(d *domain.Desired) { release(d, 2) })
	r.awaitSaid("wiped 1 gen 2 attempt 1 verified")
	r.site.place(func(d *domain.Desired) { d.Wipes = nil; d.VMs = append(d.VMs, vm(3, 1)) })
	r.awaitSaid("ready 3 boot 1")
	r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Boot = 2 })) // it is still its own drive
	r.awaitSaid("ready 1 boot 2")
	if err := r.machine.Lose(domain.VMID{1}, "host.rebooted"); err != nil {
		t.Fatal(err)
	}
	r.await("it is back", func() bool { return r.site.count("ready 1 boot 2") == 2 })
	if n := r.site.count("failed"); n != 1 {
		t.Errorf("%d failures", n)
	}
}

// A journal that has lost some of what it had, by damage or since the site knows more, no
// longer knows which drives are clean.
func TestDamagedJournalDoubts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.firstVM()
		r.stop()
		file := filepath.Join(r.dir, "journal")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte("vm/"))
		b[at] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(2, 1)) })
		r.awaitSaid("failed 2 boot 1 slot.not_wiped")
		r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Boot = 2 }))
		r.awaitSaid("ready 1 boot 2")
	})
}
