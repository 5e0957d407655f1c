package sim

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

var _ machine.Machine = (*Machine)(nil)

// Timings are how long things take. Zero fields take the default.
type Timings struct {
	Disk   time.Duration // 5 ms
	Start  time.Duration // 5 ms
	Boot   time.Duration // start to ready, 100 ms; the first sign of life comes at half of it
	Stop   time.Duration // 10 ms
	Wipe   time.Duration // 100 ms
	Reboot time.Duration // 5 ms
}

// Options describe one simulated host.
type Options struct {
	Seed    string // identity: same seed, same serials
	Slots   int    // GPUs; 0: 8
	State   string // file in which VMs and drives outlive the process; "": they do not
	Sync    bool   // the state outlives a power cut, too
	Timings Timings
	Faults  []Fault
	Log     *slog.Logger
}

// Machine is one simulated host. It is safe for concurrent use.
type Machine struct {
	o      Options
	made   time.Time
	events chan machine.Event

	mu         sync.Mutex
	faults     []Fault
	vms        map[domain.VMID]*vm
	drives     map[uint32]domain.VMID // whose data is on the slot's drive
	violations []string
	timers     map[*time.Timer]struct{}
	state      *os.File
	stateSize  int
	closed     bool
}

// vm is what outlives the daemon.
type vm struct {
	Hostname string      `json:"hostname"`
	Keys     []string    `json:"ssh_keys,omitempty"`
	UserData []byte      `json:"user_data,omitempty"`
	MAC      string      `json:"mac,omitempty"`
	Image    string      `json:"image,omitempty"`
	Slots    []uint32    `json:"slots"`
	Seeded   bool        `json:"seeded,omitempty"`
	Wired    bool        `json:"wired,omitempty"`
	Defined  bool        `json:"defined,omitempty"`
	Running  bool        `json:"running,omitempty"`
	Boot     uint32      `json:"boot,omitempty"`
	Since    domain.Time `json:"since,omitempty"`
	Lost     string      `json:"lost,omitempty"`     // why it is off, if nobody meant it to
	AliveAt  domain.Time `json:"alive_at,omitempty"` // in the future until it happens; 0: never
	ReadyAt  domain.Time `json:"ready_at,omitempty"`
}

// New makes the host, with the VMs of its state file still running.
func New(o Options) (*Machine, error) {
	if o.Slots == 0 {
		o.Slots = 8
	}
	t := &o.Timings
	for _, d := range []struct {
		of    *time.Duration
		value time.Duration
	}{{&t.Disk, 5 * time.Millisecond}, {&t.Start, 5 * time.Millisecond}, {&t.Boot, 100 * time.Millisecond}, {&t.Stop, 10 * time.Millisecond}, {&t.Wipe, 100 * time.Millisecond}, {&t.Reboot, 5 * time.Millisecond}} {
		if *d.of == 0 {
			*d.of = d.value
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Machine{
		o: o, made: time.Now(), events: make(chan machine.Event, 16), faults: slices.Clone(o.Faults),
		vms: map[domain.VMID]*vm{}, drives: map[uint32]domain.VMID{}, timers: map[*time.Timer]struct{}{},
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, v := range m.vms {
		m.schedule(id, v)
	}
	for _, f := range m.faults {
		if f.On == "device" {
			m.after(f.After, machine.Event{Kind: machine.DeviceFault, Slot: uint32(max(f.Slot, 0)), Component: f.Component, Scope: "device", Detail: f.Detail})
		}
	}
	return m, nil
}

// Discover is the slot map that follows from the seed.
func (m *Machine) Discover(ctx context.Context) (*domain.SlotMap, error) {
	return slotMap(m.o.Seed, m.o.Slots), ctx.Err()
}

// Observe says which VMs exist.
func (m *Machine) Observe(ctx context.Context) ([]machine.Observed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := domain.TimeOf(time.Now())
	var out []machine.Observed
	for id, v := range m.vms {
		if !v.Defined {
			continue
		}
		o := machine.Observed{VM: id, Running: v.Running, Boot: v.Boot, Slots: slices.Clone(v.Slots), Since: v.Since, Cause: v.Lost, Lost: v.Lost != "", Prepared: true, Seeded: v.Seeded}
		if v.AliveAt != 0 && v.AliveAt <= now {
			o.Alive, o.Address = v.AliveAt, addressOf(v.MAC)
		}
		if v.ReadyAt != 0 && v.ReadyAt <= now {
			o.Ready = v.ReadyAt
		}
		out = append(out, o)
	}
	return out, ctx.Err()
}

// begin suffers the faults of an operation, then waits for as long as it takes.
func (m *Machine) begin(ctx context.Context, on string, slots []uint32, d time.Duration) error {
	m.mu.Lock()
	faults := m.strikes(on, slots)
	m.mu.Unlock()
	if err := suffer(ctx, faults); err != nil {
		return err
	}
	return sleep(ctx, d)
}

// PrepareDisk puts the VM's image on the drives.
func (m *Machine) PrepareDisk(ctx context.Context, p *machine.VM) error {
	slots := slotsOf(p)
	if err := m.begin(ctx, "disk", slots, m.o.Timings.Disk); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slots {
		if by, used := m.drives[s]; used && by != p.VM {
			return m.violation("%s prepares slot %d, which holds data of %s", p.VM, s, by)
		}
		if err := m.free(p.VM, s); err != nil {
			return err
		}
	}
	for _, s := range slots {
		m.drives[s] = p.VM
	}
	v := m.vm(p.VM)
	v.Slots, v.Image = slots, p.Image
	return m.save()
}

// PrepareSeed keeps what cloud-init would read.
func (m *Machine) PrepareSeed(ctx context.Context, p *machine.VM) error {
	if err := m.begin(ctx, "seed", slotsOf(p), 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vm(p.VM)
	v.Hostname, v.Keys, v.UserData, v.Seeded = p.Hostname, p.SSHKeys, p.UserData, true
	return m.save()
}

// AttachNetwork gives the VM its address.
func (m *Machine) AttachNetwork(ctx context.Context, p *machine.VM) error {
	if err := m.begin(ctx, "network", slotsOf(p), 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vm(p.VM)
	v.MAC, v.Wired = p.MAC, true
	return m.save()
}

// Start boots the VM.
func (m *Machine) Start(ctx context.Context, p *machine.VM) error {
	slots := slotsOf(p)
	m.mu.Lock()
	v := m.vms[p.VM]
	running := v != nil && v.Running
	m.mu.Unlock()
	if running {
		return nil
	}
	if err := m.begin(ctx, "start", slots, m.o.Timings.Start); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v = m.vms[p.VM]; v == nil || !v.Seeded || !v.Wired || !slices.Equal(v.Slots, slots) {
		return m.violation("%s starts unprepared", p.VM)
	}
	for _, s := range slots {
		if m.drives[s] != p.VM {
			return m.violation("%s starts on slot %d, which holds data of %q", p.VM, s, m.drives[s])
		}
	}
	v.Defined, v.Running = true, true
	m.boot(p.VM, v, p.Boot)
	return m.save()
}

// boot begins a boot: life at half of its time, ready at the end, faults permitting.
func (m *Machine) boot(id domain.VMID, v *vm, boot uint32) {
	now := domain.TimeOf(time.Now())
	v.Boot, v.Since, v.Lost, v.AliveAt, v.ReadyAt = boot, now, "", 0, 0
	life := domain.Duration(m.o.Timings.Boot / time.Millisecond)
	var late domain.Duration
	never := map[string]bool{}
	for _, on := range []string{"alive", "ready"} {
		for _, f := range m.strikes(on, v.Slots) {
			never[on] = never[on] || f.Never
			late += domain.Duration(f.Slow / time.Millisecond)
		}
	}
	if !never["alive"] {
		v.AliveAt = now.Add(life/2 + late)
		if !never["ready"] {
			v.ReadyAt = now.Add(life + late)
		}
	}
	m.schedule(id, v)
}

// schedule tells the daemon of what comes by itself. A timer that has become wrong
// only makes it look once more.
func (m *Machine) schedule(id domain.VMID, v *vm) {
	if !v.Running {
		return
	}
	if wait := time.Until(v.AliveAt.Std()); v.AliveAt != 0 && wait > 0 {
		m.after(wait, machine.Event{Kind: machine.GuestAlive, VM: id, At: v.AliveAt, Address: addressOf(v.MAC)})
	}
	if wait := time.Until(v.ReadyAt.Std()); v.ReadyAt != 0 && wait > 0 {
		m.after(wait, machine.Event{Kind: machine.GuestReady, VM: id, At: v.ReadyAt})
	}
}

func (m *Machine) after(wait time.Duration, e machine.Event) {
	var t *time.Timer
	t = time.AfterFunc(wait, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.timers, t)
		m.emit(e)
	})
	m.timers[t] = struct{}{}
}

// emit never waits: Observe says the rest.
func (m *Machine) emit(e machine.Event) {
	if m.closed {
		return
	}
	select {
	case m.events <- e:
	default:
	}
}

// Stop powers the guest off.
func (m *Machine) Stop(ctx context.Context, id domain.VMID, _ domain.Duration) error {
	if err := m.begin(ctx, "stop", m.slots(id), m.o.Timings.Stop); err != nil {
		return err
	}
	return m.PowerOff(id)
}

// PowerOff is the guest switching itself off.
func (m *Machine) PowerOff(id domain.VMID) error { return m.end(id, "") }

// Lose ends the domain past everybody: "host.rebooted", "domain.crashed".
func (m *Machine) Lose(id domain.VMID, cause string) error { return m.end(id, cause) }

func (m *Machine) end(id domain.VMID, lost string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vms[id]
	if v == nil || !v.Running {
		return nil
	}
	v.Running, v.Since, v.Lost = false, domain.TimeOf(time.Now()), lost
	m.emit(machine.Event{Kind: machine.GuestStopped, VM: id, At: v.Since})
	return m.save()
}

// Reboot resets the running guest into its next boot.
func (m *Machine) Reboot(ctx context.Context, id domain.VMID) error {
	if err := m.begin(ctx, "reboot", m.slots(id), m.o.Timings.Reboot); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vms[id]
	if v == nil || !v.Running {
		return &machine.Fault{Code: "domain.not_running", Err: fmt.Errorf("%s is not running", id)}
	}
	m.boot(id, v, v.Boot+1)
	return m.save()
}

// Remove leaves nothing but the data on the drives.
func (m *Machine) Remove(ctx context.Context, id domain.VMID) error {
	if err := m.begin(ctx, "remove", m.slots(id), 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.vms, id)
	return m.save()
}

// Events is the machine's own news.
func (m *Machine) Events() <-chan machine.Event { return m.events }

// Violations are the things that were asked for and must never be.
func (m *Machine) Violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.violations)
}

// Close stops the timers; the VMs "run on" in the state file.
func (m *Machine) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	for t := range m.timers {
		t.Stop()
	}
	close(m.events)
	if m.state != nil {
		return m.state.Close()
	}
	return nil
}

func (m *Machine) vm(id domain.VMID) *vm {
	v := m.vms[id]
	if v == nil {
		v = &vm{}
		m.vms[id] = v
	}
	return v
}

func (m *Machine) slots(id domain.VMID) []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.vms[id]; v != nil {
		return v.Slots
	}
	return nil
}

// free objects if a VM other than id exists on the slot.
func (m *Machine) free(id domain.VMID, slot uint32) error {
	for other, v := range m.vms {
		if other != id && v.Defined && slices.Contains(v.Slots, slot) {
			return m.violation("slot %d is touched for %q while %s holds it", slot, id, other)
		}
	}
	return nil
}

func (m *Machine) violation(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	m.violations = append(m.violations, err.Error())
	m.o.Log.Error("violation", "err", err)
	return &machine.Fault{Code: "machine.violation", Err: err}
}

func slotsOf(p *machine.VM) []uint32 {
	out := make([]uint32, len(p.Leases))
	for i, l := range p.Leases {
		out[i] = l.Index
	}
	return out
}

// addressOf derives the guest's address from its MAC, as the DHCP server's static
// lease would: 10.x.y.z from the last three bytes.
func addressOf(mac string) string {
	var b [6]byte
	if n, _ := fmt.Sscanf(mac, "%02x:%02x:%02x:%02x:%02x:%02x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); n != 6 {
		return ""
	}
	return fmt.Sprintf("10.%d.%d.%d", b[3], b[4], b[5])
}
