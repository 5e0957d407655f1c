package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

var _ machine.Machine = (*Machine)(nil)

// Machine is the lab host. It is safe for concurrent use. Acts on one VM are done
// one after the other, on different VMs at the same time.
type Machine struct {
	o    Options
	id   identity
	kvm  bool
	lock *os.File
	d    *daemons
	host *vm.Host
	net  *network.Network

	events chan machine.Event
	nudge  chan struct{} // look now
	cancel context.CancelFunc
	done   sync.WaitGroup

	consoles sync.Mutex // rotations are followed one reader at a time

	mu       sync.Mutex
	closed   bool
	changes  uint64 // counts updates, so that a look that began before one is not believed
	vms      map[domain.VMID]*vmState
	acts     map[domain.VMID]chan struct{} // held while something is done to the VM
	erasing  map[string]bool               // drives being wiped
	watchers map[domain.VMID]context.CancelFunc
}

// New brings the lab host up, or finds it as it was left: VMs that run are adopted.
// One process at a time can hold a Dir.
func New(ctx context.Context, o Options) (_ *Machine, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if why := Missing(); why != "" {
		return nil, errors.New(why)
	}
	m := &Machine{
		o:      o,
		events: make(chan machine.Event, 256),
		nudge:  make(chan struct{}, 1),
		vms:    map[domain.VMID]*vmState{}, acts: map[domain.VMID]chan struct{}{},
		erasing: map[string]bool{}, watchers: map[domain.VMID]context.CancelFunc{},
	}
	for _, sub := range []string{"drives", "vms", "lv", "net"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
	}
	if m.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = m.lock.Close()
		}
	}()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.done.Add(1)
	go func() { defer m.done.Done(); m.watch(watching) }()
	return m, nil
}

// open loads what is in Dir and starts what does not run.
func (m *Machine) open(ctx context.Context) (err error) {
	if m.id, err = loadIdentity(m.o.Dir, m.o); err != nil {
		return err
	}
	for i := range m.id.Slots {
		path, err := m.drive(m.id.nvme(i))
		if err != nil {
			return err
		}
		if err := disk.Create(path, m.id.DriveBytes); err != nil {
			return err
		}
	}
	if err := m.loadStates(); err != nil {
		return err
	}
	m.kvm = m.tryKVM(ctx)
	m.d = &daemons{dir: filepath.Join(m.o.Dir, "lv"), run: m.o.Run}
	if err := m.d.ensure(ctx); err != nil {
		return err
	}
	if m.net, err = network.New(filepath.Join(m.o.Dir, "net"), m.d.inside, network.KernelBridges{Namespace: m.d.holder}); err != nil {
		return err
	}
	if err := m.net.Start(ctx); err != nil {
		return err
	}
	m.host = vm.NewHost(func(ctx context.Context) (net.Conn, error) { return m.d.dial(ctx, "libvirt-sock") })
	if err := m.host.Ping(ctx); err != nil {
		return errors.Join(err, m.host.Close())
	}
	if err := m.refresh(ctx); err != nil {
		return errors.Join(err, m.host.Close())
	}
	m.o.Log.Info("lab host is up", "dir", m.o.Dir, "slots", m.id.Slots, "kvm", m.kvm, "vms", len(m.vms))
	return nil
}

// lockDir keeps a second process out. The kernel frees it with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}

// Accelerated says whether guests run under KVM.
func (m *Machine) Accelerated() bool { return m.kvm }

// Events is the machine's own news.
func (m *Machine) Events() <-chan machine.Event { return m.events }

// Close lets go of the host; VMs, libvirtd and network go on running.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	for _, cancel := range m.watchers {
		cancel()
	}
	m.mu.Unlock()
	m.cancel()
	m.done.Wait()
	err := m.host.Close()
	close(m.events) // nobody emits any more: emit looks at closed
	return errors.Join(err, m.lock.Close())
}

// Shutdown pulls the plug of every VM, ends everything that the lab started and
// closes the machine. What stays are the files in Dir: drives, definitions,
// states. A later New starts from there, with all VMs off.
func (m *Machine) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	ids := slices.Collect(maps.Keys(m.vms))
	for _, s := range m.vms {
		s.ours = true
	}
	m.mu.Unlock()
	errs := make([]error, len(ids))
	var off sync.WaitGroup
	for i, id := range ids {
		off.Go(func() { errs[i] = m.unplug(ctx, id) })
	}
	off.Wait()
	errs = append(errs, m.Close(), m.net.Stop(ctx), m.d.stop(ctx))
	return errors.Join(errs...)
}

// unplug ends the domain for Shutdown.
func (m *Machine) unplug(ctx context.Context, id domain.VMID) error {
	if err := m.host.Destroy(ctx, id.String()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.vms[id]
	if s == nil || !s.Running {
		return nil
	}
	// As after a power cut of the host: this boot was not ended by anyone who meant
	// it, so the VM is to be started into it again.
	s.Running, s.Since, s.Boot = false, now(), s.Boot-1
	return m.save(s)
}

// Observe says which VMs exist, by libvirt's word and the lab's own states.
func (m *Machine) Observe(ctx context.Context) ([]machine.Observed, error) {
	if err := m.refresh(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]machine.Observed, 0, len(m.vms))
	for _, s := range m.vms {
		out = append(out, machine.Observed{
			VM: s.VM, Running: s.Running, Boot: s.Boot, Slots: slices.Clone(s.Slots),
			Since: s.Since, Alive: s.Alive, Ready: s.Ready, Address: s.Address,
		})
	}
	slices.SortFunc(out, func(a, b machine.Observed) int { return slices.Compare(a.VM[:], b.VM[:]) })
	return out, nil
}

// act takes the VM for one act, so that acts on it follow one another.
func (m *Machine) act(ctx context.Context, id domain.VMID) (release func(), err error) {
	m.mu.Lock()
	c, ok := m.acts[id]
	if !ok {
		c = make(chan struct{}, 1)
		m.acts[id] = c
	}
	m.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("lab: %s is busy: %w", id, ctx.Err())
	}
}

// exists says whether the lab has such a VM.
func (m *Machine) exists(id domain.VMID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vms[id] != nil
}

// update changes the VM's state and writes it down.
func (m *Machine) update(id domain.VMID, change func(*vmState)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.vms[id]
	if s == nil {
		return fmt.Errorf("lab: no VM %s", id)
	}
	change(s)
	m.changes++
	s.changed = m.changes
	return m.save(s)
}

func now() domain.Time { return domain.TimeOf(time.Now()) }
