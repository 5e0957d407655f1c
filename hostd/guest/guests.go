package guest

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// Hypervisor is what this package asks of libvirt: vm.Host.
type Hypervisor interface {
	List(ctx context.Context) ([]vm.State, error)
	Running(ctx context.Context, name string) (bool, error)
	Define(ctx context.Context, xml string) error
	Start(ctx context.Context, name string) error
	PowerButton(ctx context.Context, name string) error
	Reboot(ctx context.Context, name string) error
	Reset(ctx context.Context, name string) error
	Destroy(ctx context.Context, name string) error
	Undefine(ctx context.Context, name string) error
	Events(ctx context.Context) (<-chan vm.Event, error)
}

// Sign is a sign of life that a guest gave: when, and with which address.
type Sign struct {
	At      time.Time
	Address string
}

// Options are what the guests of a host are kept with. Dir, Host, HostBoot, Signs
// and Dial are required.
type Options struct {
	Dir     string      // exists; one folder for each VM is made in it
	DirMode fs.FileMode // of those folders; 0: 0700
	Host    Hypervisor

	// HostBoot names this boot of the host (see BootID): a VM that ran in another one
	// was lost with it.
	HostBoot string
	// Signs are the last signs of life, by MAC address.
	Signs func() (map[string]Sign, error)
	// Dial connects to the host's end of the VM's ready port (vm.ReadyPort).
	Dial func(ctx context.Context, id domain.VMID) (net.Conn, error)
	// Doubt says why a guest that says ready is not, given the rest of its line: for
	// instance because it lacks a device. The code of a machine.Fault is the reason, of
	// which there are few. nil: it always is.
	Doubt func(s State, said string) error
	// Tend is called every half second that libvirt answers, and Repair when it did
	// not answer for a while. nil: nothing to do.
	Tend, Repair func(ctx context.Context) error

	RebootWait       time.Duration // how long a guest may take to go down for a reboot; 0: 30 s
	ConsoleFileBytes int64         // at which size virtlogd begins a new file; 0: 512 KiB
	Log              *slog.Logger  // nil: none
}

// Guests are the VMs of one host. They are safe for concurrent use. Acts on one VM
// are done one after the other, on different VMs at the same time.
type Guests struct {
	o      Options
	events chan machine.Event
	nudge  chan struct{} // look now
	cancel context.CancelFunc
	done   sync.WaitGroup

	consoles sync.Mutex // rotations are followed one reader at a time

	mu       sync.Mutex
	closed   bool
	changes  uint64 // counts updates, so that a look that began before one is not believed
	vms      map[domain.VMID]*State
	acts     map[domain.VMID]chan struct{} // held while something is done to the VM
	erasing  map[string]bool               // drives being wiped
	watchers map[domain.VMID]context.CancelFunc
}

// Open finds the VMs as they were left and begins to watch them.
func Open(ctx context.Context, o Options) (*Guests, error) {
	g, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := g.refresh(ctx); err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.done.Add(1)
	go func() { defer g.done.Done(); g.watch(watching) }()
	return g, nil
}

// prepare is Open without looking at libvirt.
func prepare(o Options) (*Guests, error) {
	if o.DirMode == 0 {
		o.DirMode = 0o700
	}
	if o.RebootWait == 0 {
		o.RebootWait = 30 * time.Second
	}
	if o.ConsoleFileBytes == 0 {
		o.ConsoleFileBytes = 512 << 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Guests{
		o:      o,
		events: make(chan machine.Event, 256),
		nudge:  make(chan struct{}, 1),
		vms:    map[domain.VMID]*State{}, acts: map[domain.VMID]chan struct{}{},
		erasing: map[string]bool{}, watchers: map[domain.VMID]context.CancelFunc{},
	}
	return g, g.load()
}

// Events is the guests' own news. It is closed by Close.
func (g *Guests) Events() <-chan machine.Event { return g.events }

// Close lets go of the guests; they go on running. The caller closes what the
// Options brought.
func (g *Guests) Close() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.closed = true
	for _, cancel := range g.watchers {
		cancel()
	}
	g.mu.Unlock()
	g.cancel()
	g.done.Wait()
	close(g.events) // nobody emits any more: Emit looks at closed
}

// Observe says which VMs exist, by libvirt's word and what is remembered.
func (g *Guests) Observe(ctx context.Context) ([]machine.Observed, error) {
	if err := g.refresh(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]machine.Observed, 0, len(g.vms))
	for _, s := range g.vms {
		out = append(out, machine.Observed{
			VM: s.VM, Running: s.Running, Boot: s.Boot, Slots: slices.Clone(s.Slots),
			Since: s.Since, Alive: s.Alive, Ready: s.Ready, Address: s.Address,
			Cause: s.Cause, Lost: s.Lost, Prepared: s.Prepared, Seeded: g.seeded(s.VM), Doubts: slices.Clone(s.Doubts),
		})
	}
	slices.SortFunc(out, func(a, b machine.Observed) int { return slices.Compare(a.VM[:], b.VM[:]) })
	return out, nil
}

// Act takes the VM for one act, so that acts on it follow one another.
func (g *Guests) Act(ctx context.Context, id domain.VMID) (release func(), err error) {
	g.mu.Lock()
	c, ok := g.acts[id]
	if !ok {
		c = make(chan struct{}, 1)
		g.acts[id] = c
	}
	g.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("guest: %s is busy: %w", id, ctx.Err())
	}
}

// States are copies of all that is remembered.
func (g *Guests) States() []State {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]State, 0, len(g.vms))
	for _, s := range g.vms {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b State) int { return slices.Compare(a.VM[:], b.VM[:]) })
	return out
}

// State is a copy of what is remembered of the VM.
func (g *Guests) State(id domain.VMID) (State, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.vms[id]; s != nil {
		return *s, true
	}
	return State{}, false
}

// Update changes what is remembered of the VM and writes it down.
func (g *Guests) Update(id domain.VMID, change func(*State)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.vms[id]
	if s == nil {
		return fmt.Errorf("guest: no VM %s", id)
	}
	change(s)
	g.changes++
	s.changed = g.changes
	return g.save(s)
}

// Emit hands an event out; a reader that is slow loses it, and Observe says it too.
func (g *Guests) Emit(e machine.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emit(e)
}

func (g *Guests) emit(e machine.Event) {
	if g.closed {
		return
	}
	if e.At == 0 {
		e.At = now()
	}
	select {
	case g.events <- e:
	default:
	}
}
