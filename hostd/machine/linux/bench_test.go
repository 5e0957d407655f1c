package linux

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/journal"
)

// BenchmarkLaunch measures what hostd adds to what QEMU and the disk do: from a
// placement that arrives to the request that starts the domain, image cached. The
// agent, the machine and every fsync are real; kernel, libvirt, network and qemu-img
// answer at once. Beside it: an fdatasync of 4 KiB on the same disk, and what hostd does
// to remember anything: a small file, its rename and its folder, durably.
func BenchmarkLaunch(b *testing.B) {
	const vms = 20
	for b.Loop() {
		w := newWorld(b, vms)
		if err := w.m.Close(); err != nil { // for a next one, with a real host's pauses
			b.Fatal(err)
		}
		w.watch = 0
		w.lv.After = nil // the world's opens the groups of slots that wait, too
		w.run = func(context.Context, string, ...string) ([]byte, error) { return nil, nil }
		w.open()
		s := newBenchSite(b, w)
		starts := make(chan time.Time, vms)
		w.step = func(what string, after bool) error {
			if what == "libvirt start" && !after {
				starts <- time.Now()
			}
			return nil
		}
		stop := s.runAgent(b, w)
		s.place(func(*domain.Desired) {})
		await(b, "a proposed map", func() bool { return !s.proposed().IsZero() })
		proposed := s.proposed()
		s.place(func(d *domain.Desired) { d.SlotMap = proposed })
		var took []time.Duration
		for i := range vms {
			s.place(func(d *domain.Desired) {
				d.VMs = append(d.VMs, domain.PlacedVM{
					VM: domain.VMID{0xab, byte(i + 1)}, Tenant: domain.TenantID{7}, Hostname: "trainer", Power: domain.PowerOn, Boot: 1,
					ImageHash: s.image, UserData: domain.Digest{1}, MAC: fmt.Sprintf("02:00:00:00:00:%02x", i),
					Leases: []domain.Lease{{Slot: domain.SlotID{byte(i + 1)}, Index: uint32(i), Generation: 1, Nonce: domain.Digest{1}}},
				})
			})
			select {
			case at := <-starts:
				took = append(took, at.Sub(s.handed()))
			case <-time.After(time.Minute):
				b.Fatal("no domain was started")
			}
		}
		stop()
		slices.Sort(took)
		sync, keep := limits(b)
		b.ReportMetric(took[vms/2].Seconds()*1000, "p50-ms")
		b.ReportMetric(took[vms-1].Seconds()*1000, "max-ms")
		b.ReportMetric(sync.Seconds()*1000, "fdatasync-ms")
		b.ReportMetric(keep.Seconds()*1000, "durable-file-ms")
		b.ReportMetric(300, "aim-ms")
	}
}

// limits are the medians of an fdatasync of 4 KiB and of a small file made durable.
func limits(b *testing.B) (sync, keep time.Duration) {
	dir, buf := b.TempDir(), make([]byte, 4<<10)
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	median := func(do func() error) time.Duration {
		took := make([]time.Duration, 100)
		for i := range took {
			began := time.Now()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	sync = median(func() error {
		_, err := f.Write(buf)
		return errors.Join(err, unix.Fdatasync(int(f.Fd())))
	})
	return sync, median(func() error { return durable.WriteJSON(filepath.Join(dir, "kept"), "a VM") })
}

// seen is the machine after its first look: what the world put into its tree is what
// it found.
type seen struct {
	*Machine
	slots *domain.SlotMap
}

func (s seen) Discover(context.Context) (*domain.SlotMap, error) { return s.slots, nil }

// benchSite is a control plane in memory, which acknowledges every report. It implements
// hostd.Link.
type benchSite struct {
	image  domain.Digest
	images string // folder of the cache that holds it
	wake   chan struct{}

	mu     sync.Mutex
	placed domain.Placement
	at     time.Time // when the last placement was handed over
	found  domain.Digest
}

func newBenchSite(b *testing.B, w *world) *benchSite {
	content, err := os.ReadFile(w.image)
	if err != nil {
		b.Fatal(err)
	}
	s := &benchSite{image: domain.DigestOf(content), images: b.TempDir(), wake: make(chan struct{}, 1)}
	w.write(filepath.Join(s.images, fmt.Sprintf("%x", s.image[:])), string(content))
	s.placed.Desired = domain.Desired{Site: "bench", Epoch: 1, Host: domain.HostID{1}}
	return s
}

// runAgent runs the daemon on the world's machine until the function it returns.
func (s *benchSite) runAgent(b *testing.B, w *world) (stop func()) {
	images, err := hostd.NewImageCache(s.images, s.RequestImage, 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, Sign: func([]byte) ([]byte, error) { return nil, nil }})
	if err == nil { // of a hostd that had wiped the drives
		err = errors.Join(j.Note(journal.Change{Set: map[string]string{"map": ""}}), j.Close())
	}
	if err != nil {
		b.Fatal(err)
	}
	a, err := hostd.New(hostd.Options{
		Host: domain.HostID{1}, Site: "bench", Dir: dir, Machine: seen{w.m, w.m.found}, Link: s,
		Signer: ed25519.NewKeyFromSeed(make([]byte, 32)), Images: images.Path, KeepImages: images.Keep,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

func (s *benchSite) place(change func(d *domain.Desired)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.placed.Desired.Generation++
	change(&s.placed.Desired)
	s.tell()
}

func (s *benchSite) tell() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// handed is when the last placement with a new generation came to the host.
func (s *benchSite) handed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// proposed is the digest of the map that the host proposes.
func (s *benchSite) proposed() domain.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}

func (s *benchSite) Placements(ctx context.Context, fn func(*domain.Placement) error) error {
	for last := uint64(0); ; { // ends with ctx
		s.mu.Lock()
		b, generation := domain.EncodePlacement(&s.placed), s.placed.Desired.Generation
		if generation != last {
			s.at, last = time.Now(), generation
		}
		s.mu.Unlock()
		p, err := domain.DecodePlacement(b)
		if err != nil {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		}
	}
}

func (s *benchSite) Report(_ context.Context, _ domain.ReportKind, signed []byte) error {
	sr, err := domain.DecodeSignedReport(signed)
	if err != nil {
		return err
	}
	r, err := domain.DecodeReport(sr.Report)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Inventory != nil {
		s.found = r.Inventory.Digest()
	}
	s.placed.Journal, s.placed.Acked = r.Journal, r.Number
	s.tell()
	return nil
}

func (s *benchSite) Heartbeat([]byte) error { return nil }

func (s *benchSite) RequestVault(context.Context, []byte) ([]byte, error) {
	return json.Marshal(hostd.VaultReply{SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#!/bin/sh\n")})
}

func (s *benchSite) RequestImage(context.Context, []byte) ([]byte, error) {
	return nil, errors.New("the image is cached")
}

func (s *benchSite) ServeConsole(context.Context, func(ctx context.Context, req []byte) ([]byte, error)) error {
	return nil
}
