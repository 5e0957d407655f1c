package hostd_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// rack is one simulated host, its site, and the daemon that runs on it, which can
// be killed at any call to its machine and started again.
type rack struct {
	t       *testing.T
	site    *site
	machine *sim.Machine
	key     ed25519.PrivateKey
	limits  hostd.Limits
	images  func(context.Context, domain.Digest) (string, error)
	keep    func([]domain.PlacedVM) error

	dir    string
	body   *mortal
	agent  *hostd.Agent
	cancel context.CancelFunc
	ended  chan error
	rewire func(m *domain.SlotMap) // what somebody did to the hardware
	// through is put between the daemon and its machine; nil: nothing is.
	through func(machine.Machine) machine.Machine
	lookAt  chan struct{}
	news    chan machine.Event
	killAt  int // the call to the machine at which the daemon dies; 0: never
	kills   int
}

// newRack must be called in a synctest bubble, so that no test waits for real time.
func newRack(t *testing.T, o sim.Options) *rack {
	t.Helper()
	o.Seed = t.Name()
	m, err := sim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	r := &rack{t: t, machine: m, key: key, dir: t.TempDir(), site: newSite(t, domain.HostID{7}, key.Public().(ed25519.PublicKey))}
	t.Cleanup(func() {
		r.stop()
		_ = m.Close()
		for _, v := range m.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	return r
}

// start runs a new daemon on the rack's directory.
func (r *rack) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.body = &mortal{Machine: r.machine, rewire: r.rewire, lookAt: r.lookAt, news: r.news, dieAt: r.killAt, die: func() {
		grave := r.t.TempDir()
		copyDir(r.t, r.dir, grave) // what kill -9 leaves is what is in the files now
		r.dir = grave
		cancel()
	}}
	link := &mortalLink{Link: r.site, body: r.body}
	var m machine.Machine = r.body
	if r.through != nil {
		m = r.through(m)
	}
	a, err := hostd.New(hostd.Options{
		Host: r.site.host, Site: "dev", Dir: r.dir, Machine: m, Link: link, Signer: r.key, Images: r.images, KeepImages: r.keep, Limits: r.limits, NoSync: true,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent, r.cancel, r.ended = a, cancel, make(chan error, 1)
	go func() { r.ended <- a.Run(ctx) }()
}

func (r *rack) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	if err := <-r.ended; err != nil && !r.body.dead() {
		r.t.Errorf("agent: %v", err)
	}
	r.cancel = nil
}

// await waits, in the bubble's time, until the condition holds. A daemon that died
// meanwhile is started again.
func (r *rack) await(what string, cond func() bool) {
	r.t.Helper()
	for range 20_000 {
		if r.body.dead() {
			r.stop()
			r.kills++
			r.killAt = 0
			r.start()
		}
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("waited in vain for: %s\nsaid: %s\nlast heartbeat: %+v", what, strings.Join(r.site.said(), "\n      "), r.site.lastBeat())
}

func (r *rack) awaitSaid(lines ...string) {
	r.t.Helper()
	for _, l := range lines {
		r.await(l, func() bool { return r.site.heard(l) })
	}
}

// proposed is the slot map that the host proposes, once it is told that none is approved.
func (r *rack) proposed() *domain.SlotMap {
	r.t.Helper()
	r.site.place(func(*domain.Desired) {})
	r.await("a proposal", func() bool { return r.site.proposal() != nil })
	return r.site.proposal()
}

// approve brings the host to where tenants can come: map approved, first wipes done.
func (r *rack) approve() {
	r.t.Helper()
	m := r.proposed()
	r.site.place(func(d *domain.Desired) {
		d.SlotMap = m.Digest()
		for i := range m.Slots {
			d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(uint32(i), 0), Attempt: 1, Policy: domain.WipeAuto})
		}
	})
	r.awaitWiped()
}

// firstVM brings the host to where VM 1 is ready in slot 0.
func (r *rack) firstVM() {
	r.t.Helper()
	r.start()
	r.approve()
	r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
	r.awaitSaid("ready 1 boot 1")
}

func (r *rack) awaitWiped() {
	r.t.Helper()
	r.await("all wiped", func() bool {
		r.site.mu.Lock()
		defer r.site.mu.Unlock()
		return len(r.site.placed.Desired.Wipes) == 0
	})
}

func lease(index, generation uint32) domain.Lease {
	return domain.Lease{Slot: domain.SlotID{byte(index + 1)}, Index: index, Generation: generation, Nonce: domain.DigestOf([]byte{byte(index), byte(generation)})}
}

func vm(n byte, slots ...uint32) domain.PlacedVM {
	v := domain.PlacedVM{VM: domain.VMID{n}, Hostname: "trainer", Power: domain.PowerOn, Boot: 1, Image: "ubuntu-24.04", MAC: "52:54:00:00:00:0" + string('0'+rune(n))}
	for _, s := range slots {
		v.Leases = append(v.Leases, lease(s, uint32(n)))
	}
	return v
}

// release takes a VM out of the placement and asks for its slots to be erased.
func release(d *domain.Desired, n byte) {
	for i, v := range d.VMs {
		if v.VM[0] == n {
			for _, l := range v.Leases {
				d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: l, Attempt: 1, Policy: domain.WipeAuto})
			}
			d.VMs = append(d.VMs[:i], d.VMs[i+1:]...)
			return
		}
	}
}

func onVM(n byte, change func(v *domain.PlacedVM)) func(d *domain.Desired) {
	return func(d *domain.Desired) {
		for i := range d.VMs {
			if d.VMs[i].VM[0] == n {
				change(&d.VMs[i])
			}
		}
	}
}

var errDead = errors.New("this daemon is dead")

// mortal is the machine as one daemon sees it. At a chosen call the daemon dies:
// before the machine did it (odd) or after (even). The dead touch nothing.
type mortal struct {
	machine.Machine
	mu    sync.Mutex
	calls int
	dieAt int
	gone  bool
	die   func()

	rewire func(m *domain.SlotMap)
	given  []machine.VM // what PrepareDisk was called with

	looks  int                // calls of Discover
	lookAt chan struct{}      // Discover waits for it; nil: it does not
	news   chan machine.Event // beside the machine's own; nil: none
}

func (m *mortal) dead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

func (m *mortal) call(f func() error) error {
	if err := m.step(); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return m.step()
}

func (m *mortal) step() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errDead
	}
	m.calls++
	if m.calls == m.dieAt {
		m.gone = true
		m.die()
		return errDead
	}
	return nil
}

func (m *mortal) Observe(ctx context.Context) ([]machine.Observed, error) {
	if m.dead() {
		return nil, errDead
	}
	return m.Machine.Observe(ctx)
}

func (m *mortal) Events() <-chan machine.Event {
	if m.news != nil {
		return m.news
	}
	return m.Machine.Events()
}

func (m *mortal) looked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.looks
}

func (m *mortal) Discover(ctx context.Context) (*domain.SlotMap, error) {
	m.mu.Lock()
	m.looks++
	m.mu.Unlock()
	if m.lookAt != nil {
		select {
		case <-m.lookAt:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	found, err := m.Machine.Discover(ctx)
	if err == nil && m.rewire != nil {
		m.rewire(found)
	}
	return found, err
}

func (m *mortal) PrepareDisk(ctx context.Context, v *machine.VM) error {
	m.mu.Lock()
	m.given = append(m.given, *v)
	m.mu.Unlock()
	return m.call(func() error { return m.Machine.PrepareDisk(ctx, v) })
}

func (m *mortal) PrepareSeed(ctx context.Context, v *machine.VM) error {
	return m.call(func() error { return m.Machine.PrepareSeed(ctx, v) })
}

func (m *mortal) AttachNetwork(ctx context.Context, v *machine.VM) error {
	return m.call(func() error { return m.Machine.AttachNetwork(ctx, v) })
}

func (m *mortal) Start(ctx context.Context, v *machine.VM) error {
	return m.call(func() error { return m.Machine.Start(ctx, v) })
}

func (m *mortal) Stop(ctx context.Context, id domain.VMID, grace domain.Duration) error {
	return m.call(func() error { return m.Machine.Stop(ctx, id, grace) })
}

func (m *mortal) Reboot(ctx context.Context, id domain.VMID) error {
	return m.call(func() error { return m.Machine.Reboot(ctx, id) })
}

func (m *mortal) Remove(ctx context.Context, id domain.VMID) error {
	return m.call(func() error { return m.Machine.Remove(ctx, id) })
}

func (m *mortal) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) (evidence []domain.DeviceWipe, err error) {
	err = m.call(func() (err error) {
		evidence, err = m.Machine.Wipe(ctx, slot, w)
		return err
	})
	return evidence, err
}

// mortalLink is deaf and dumb once its daemon is dead. A report can also be where
// the daemon dies: published, and not known to be.
type mortalLink struct {
	hostd.Link
	body *mortal
}

func (l *mortalLink) Report(ctx context.Context, kind domain.ReportKind, signed []byte) error {
	return l.body.call(func() error { return l.Link.Report(ctx, kind, signed) })
}

func (l *mortalLink) Heartbeat(b []byte) error {
	if l.body.dead() {
		return errDead
	}
	return l.Link.Heartbeat(b)
}

func copyDir(t *testing.T, from, to string) {
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // renamed away under our eyes
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o700); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Errorf("copy the dead daemon's directory: %v", err)
	}
}
