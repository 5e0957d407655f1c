package hostd_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
)

// site is a control plane in memory: it keeps the placement, believes no report
// without a good signature, and acknowledges what it took.
type site struct {
	t      testing.TB
	host   domain.HostID
	public ed25519.PublicKey

	mu       sync.Mutex
	placed   domain.Placement
	once     *domain.Placement // goes over the line next, instead of placed
	has      bool
	watchers map[chan struct{}]struct{}
	reports  []domain.Report
	seen     map[string]bool // (journal, number): a repeat changes nothing
	beats    []domain.Heartbeat
	console  func(ctx context.Context, req []byte) ([]byte, error)
	deaf     bool // publishes fail
	away     bool // nothing comes from it: no placement, no vault
	mute     bool // takes reports, acknowledges nothing
	vault    map[domain.Digest]hostd.VaultReply
	images   map[domain.Digest][]byte
}

func newSite(t testing.TB, host domain.HostID, public ed25519.PublicKey) *site {
	return &site{
		t: t, host: host, public: public, watchers: map[chan struct{}]struct{}{}, seen: map[string]bool{},
		vault: map[domain.Digest]hostd.VaultReply{}, images: map[domain.Digest][]byte{},
	}
}

// place changes the desired state.
func (s *site) place(change func(d *domain.Desired)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.placed.Desired
	d.VMs, d.Wipes = slices.Clone(d.VMs), slices.Clone(d.Wipes)
	d.Site, d.Host, d.Epoch = "dev", s.host, max(d.Epoch, 1)
	d.Generation++
	change(&d)
	s.placed.Desired, s.has = d, true
	s.tell()
}

// deliver puts a placement on the line as it is, once. The site's own stays.
func (s *site) deliver(p *domain.Placement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.once = p
	s.tell()
}

// desired is a copy of the site's own desired state.
func (s *site) desired() domain.Desired {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placed.Desired
}

func (s *site) tell() {
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (s *site) Placements(ctx context.Context, fn func(*domain.Placement) error) error {
	w := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		b, has, once := domain.EncodePlacement(&s.placed), s.has && !s.away, s.once
		s.once = nil
		s.mu.Unlock()
		if once != nil {
			if err := fn(once); err != nil {
				return err
			}
		} else if has {
			p, err := domain.DecodePlacement(b)
			if err != nil {
				return err
			}
			if err := fn(p); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w:
		}
	}
}

func (s *site) Report(ctx context.Context, kind domain.ReportKind, signed []byte) error {
	sr, err := domain.DecodeSignedReport(signed)
	if err != nil {
		s.t.Errorf("report: %v", err)
		return err
	}
	r, err := domain.DecodeReport(sr.Report)
	if err != nil || r.Kind != kind || r.Host != s.host || !ed25519.Verify(s.public, sr.Report, sr.Signature) {
		s.t.Errorf("bad report %+v: %v", r, err)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf {
		return errors.New("no line")
	}
	key := fmt.Sprint(r.Journal, r.Number)
	if !s.seen[key] {
		s.seen[key] = true
		s.reports = append(s.reports, *r)
		if r.Wipe != nil {
			s.judge(r.Wipe)
		}
	}
	if !s.mute {
		s.placed.Journal, s.placed.Acked = r.Journal, r.Number
		s.tell()
	}
	return ctx.Err()
}

// judge takes a wipe out of the placement if its evidence is good.
func (s *site) judge(w *domain.WipeReport) {
	for _, d := range w.Devices {
		if d.Result != domain.WipeVerified || !s.owns(d) {
			return
		}
	}
	d := &s.placed.Desired
	kept := slices.DeleteFunc(slices.Clone(d.Wipes), func(p domain.PlacedWipe) bool {
		return p.Lease.Slot == w.Slot && p.Lease.Generation == w.Generation && p.Lease.Nonce == w.Nonce
	})
	if len(kept) < len(d.Wipes) {
		d.Wipes = kept
		d.Generation++
		s.tell()
	}
}

func (s *site) owns(d domain.DeviceWipe) bool {
	for _, r := range s.reports {
		if r.Inventory == nil {
			continue
		}
		for _, slot := range r.Inventory.Slots {
			if d.Serial == slot.NVMe.Serial || d.Serial == slot.GPU.Serial || d.Serial == slot.IBVF.Serial {
				return true
			}
		}
	}
	return false
}

func (s *site) Heartbeat(b []byte) error {
	h, err := domain.DecodeHeartbeat(b)
	if err != nil {
		s.t.Errorf("heartbeat: %v", err)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats = append(s.beats, *h)
	return nil
}

func (s *site) RequestVault(_ context.Context, payload []byte) ([]byte, error) {
	var r hostd.VaultRequest
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errors.New("no line")
	}
	return json.Marshal(s.vault[r.Digest])
}

func (s *site) RequestImage(_ context.Context, payload []byte) ([]byte, error) {
	var r hostd.ImageRequest
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.images[r.Digest]
	return b[min(int(r.Offset), len(b)):min(int(r.Offset)+r.Length, len(b))], nil
}

func (s *site) ServeConsole(_ context.Context, fn func(ctx context.Context, req []byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console = fn
	return nil
}

// said lists the reports in words: "started vm 1", "wiped 0 gen 1 attempt 1 failed".
func (s *site) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.reports {
		switch {
		case r.VM != nil:
			line := fmt.Sprintf("%s %d boot %d", r.Kind, r.VM.VM[0], r.VM.Boot)
			if r.VM.Reason != "" {
				line += " " + r.VM.Reason
			}
			if r.VM.Theirs {
				line += " theirs"
			}
			if r.VM.Lost {
				line += " lost"
			}
			if r.VM.Component != "" {
				line += fmt.Sprintf(" by the %s of slot %d", r.VM.Component, r.VM.Slot[0]-1)
			}
			out = append(out, line)
		case r.Wipe != nil:
			results := map[string]bool{}
			worst := "verified"
			for _, d := range r.Wipe.Devices {
				results[d.Result.String()] = true
				if d.Result != domain.WipeVerified {
					worst = d.Result.String()
				}
			}
			out = append(out, fmt.Sprintf("wiped %d gen %d attempt %d %s", r.Wipe.Slot[0]-1, r.Wipe.Generation, r.Wipe.Attempt, worst))
		case r.Inventory != nil:
			out = append(out, fmt.Sprintf("inventory %d slots", len(r.Inventory.Slots)))
		case r.Fault != nil:
			out = append(out, fmt.Sprintf("faulted %s %s", r.Fault.Component, r.Fault.Reason))
		}
	}
	return out
}

func (s *site) heard(line string) bool { return slices.Contains(s.said(), line) }

func (s *site) count(prefix string) int {
	n := 0
	for _, l := range s.said() {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func (s *site) lastBeat() domain.Heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.beats) == 0 {
		return domain.Heartbeat{}
	}
	return s.beats[len(s.beats)-1]
}

func (s *site) proposal() *domain.SlotMap {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.reports) - 1; i >= 0; i-- {
		if m := s.reports[i].Inventory; m != nil {
			return m
		}
	}
	return nil
}
