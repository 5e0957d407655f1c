package domain

import (
	"crypto/sha256"
	"encoding/json"
	"testing"
)

func TestOneAllocationFromLaunchToWipe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 8, "r1")
	s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", 100_000_000)
	id := s.launch(f, "train", "gpu-1x", 1)
	if b := s.balance(f); b.Held != 2_490_000 || b.Available != 97_510_000 {
		t.Fatalf("a launch holds one hour: %+v", b)
	}
	if a := s.w.allocations.get(id); a.State != Provisioning {
		t.Fatalf("state %s", a.State)
	}
	s.after(30 * Second)
	h.boot()
	if a := s.w.allocations.get(id); a.State != Running {
		t.Fatalf("state %s", a.State)
	}
	s.after(1000 * Second)
	if b := s.balance(f); b.Unbilled != 691_666 || b.Held != 2_490_000-691_666 || b.Available != 97_510_000 {
		t.Fatalf("usage is taken from the hold: %+v", b)
	}
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
	v := h.placement().Desired.VMs[0]
	if v.Power != PowerOff {
		t.Fatal("the host is not told to stop")
	}
	h.vm(ReportStopped, v, s.now)
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStart})
	h.boot()
	if v := h.placement().Desired.VMs[0]; v.Boot != 2 {
		t.Fatalf("boot %d", v.Boot)
	}
	s.after(500 * Second)
	s.release(f, id, h)
	if s.w.allocations.len() != 0 || s.w.vms.len() != 0 {
		t.Fatal("a released allocation leaves the world")
	}
	if b := s.balance(f); b.Available != 100_000_000-1_037_500 || b.Held != 0 || b.Unbilled != 0 || b.Receivable != 0 {
		t.Fatalf("1500 s at 2.49/h are 1.0375: %+v", b)
	}
	if n := s.w.Count().SlotStates["available"]; n != 8 {
		t.Fatalf("%d slots are available", n)
	}
	s.replays()
}

// The host learns from its placement which document holds the VM's keys and user data, of
// every VM of a gang, and from a snapshot's world no less.
func TestUserDataReachesTheHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 3, "r1")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 100_000_000)
	s.launch(f, "without", "gpu-1x", 1)
	data := DigestOf([]byte("#cloud-config"))
	s.must(f.key, &CreateAllocation{Project: f.project, Name: "with", SKUName: "gpu-1x", Count: 2, UserData: data})
	again, err := DecodeWorld(s.w.Encode())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []*World{s.w, again} {
		p, _ := w.PlacementOf(h.id)
		want := map[string]Digest{"without": {}, "with-00": data, "with-01": data}
		for _, v := range p.Desired.VMs {
			if d, ok := want[v.Hostname]; !ok || v.UserData != d {
				t.Errorf("%s is placed with user data %s", v.Hostname, v.UserData)
			}
			if !w.MayHaveUserData(h.id, v.VM, v.UserData) {
				t.Errorf("%s may not have what it is placed with", v.Hostname)
			}
			delete(want, v.Hostname)
		}
		if len(want) != 0 {
			t.Errorf("not placed: %v", want)
		}
	}
	s.replays()
}

// replays folds the log again, from the beginning and from a snapshot in the
// middle, and decides every command again; then through memory that is used again.
func (s *site) replays() {
	s.t.Helper()
	again, mid := NewWorld(), (*World)(nil)
	for i, b := range s.log {
		c, err := DecodeCommit(b)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, w := range []*World{again, mid} {
			if w == nil {
				continue
			}
			for k := range c.Decisions {
				d := &c.Decisions[k]
				out := w.Decide(c.At, &d.Command)
				if out.Err != nil {
					s.t.Fatalf("commit %d: decided again, refused: %v", c.N, out.Err)
				}
				again := Decision{Command: d.Command}
				for n, e := range out.Events {
					again.Events = append(again.Events, Event{d.Events[0].Number + uint64(n), e})
				}
				if string(AppendDecision(nil, &again)) != string(AppendDecision(nil, d)) {
					x, _ := json.Marshal(d)
					y, _ := json.Marshal(again)
					s.t.Fatalf("commit %d: decided again, other events (from a snapshot: %v)\n%s\n%s", c.N, w == mid, x, y)
				}
			}
			if err := w.ApplyCommit(c, sha256.Sum256(b)); err != nil {
				s.t.Fatal(err)
			}
		}
		if i%7 == len(s.log)/2%7 {
			if mid, err = DecodeWorld(again.Encode()); err != nil {
				s.t.Fatal(err)
			}
			if mid.Hash() != again.Hash() {
				s.t.Fatalf("commit %d: a snapshot read back is another world", c.N)
			}
			if err := mid.CheckAll(); err != nil {
				s.t.Fatalf("commit %d: from the snapshot: %v", c.N, err)
			}
		}
	}
	if again.Hash() != s.w.Hash() || mid.Hash() != s.w.Hash() {
		s.t.Fatal("the same log folds into another world")
	}
	s.refolds()
}
