package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// watch looks at what is, every half second and whenever libvirt says that
// something happened, until ctx ends. What it looks at are states, never only
// events: an event that is lost costs half a second. It also brings back libvirtd
// and its helpers when they are gone.
func (m *Machine) watch(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	m.done.Add(1)
	go func() { defer m.done.Done(); m.follow(ctx) }()
	failures := 0
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.nudge:
		}
		looking, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := m.refresh(looking)
		if err != nil && ctx.Err() == nil {
			if failures++; failures%10 == 3 { // 1.5 s without an answer, then every 5 s
				m.o.Log.Warn("libvirtd does not answer: starting what is missing", "err", err)
				err = errors.Join(m.d.ensure(looking), m.net.Start(looking))
			}
			if err != nil {
				m.o.Log.Warn("cannot look at the VMs", "err", err)
			}
		} else {
			failures = 0
		}
		if err == nil && !m.net.Running() {
			m.o.Log.Warn("dnsmasq is gone: starting it", "err", m.net.Start(looking))
		}
		cancel()
	}
}

// look asks the watcher to look now.
func (m *Machine) look() {
	select {
	case m.nudge <- struct{}{}:
	default: // it will anyway
	}
}

// follow turns libvirt's events into nudges, and counts resets: those are the one
// thing that no state shows.
func (m *Machine) follow(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := m.host.Events(ctx)
		if err == nil {
			for e := range events {
				if e.Kind == vm.Rebooted {
					var id domain.VMID
					if id.UnmarshalText([]byte(e.Name)) == nil {
						m.reset(id)
					}
				}
				m.look()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// reset notes that the guest was reset. If a reboot of ours is in progress that
// was it: the next boot begins now, and nothing is known of it. A guest that reboots by
// itself stays in its boot.
func (m *Machine) reset(id domain.VMID) {
	err := m.update(id, func(s *vmState) {
		if s.rebooting {
			s.rebooting = false
			s.Boot++
			s.Since, s.Alive, s.Ready = now(), 0, 0
		}
		m.emit(machine.Event{Kind: machine.Changed, VM: id, Detail: "reset"})
	})
	if err != nil {
		m.o.Log.Warn("a reset is not remembered", "vm", id, "err", err)
	}
}

// refresh brings the states up to what libvirt and the lease file say.
func (m *Machine) refresh(ctx context.Context) error {
	m.mu.Lock()
	began := m.changes
	m.mu.Unlock()
	domains, err := m.host.List(ctx)
	if err != nil {
		return err
	}
	leases, err := m.net.Leases()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[domain.VMID]bool{}
	for _, d := range domains {
		var id domain.VMID
		if id.UnmarshalText([]byte(d.Name)) != nil {
			continue // not ours: only a person can have made it
		}
		s := m.vms[id]
		if s == nil {
			if len(m.acts[id]) == 0 && m.changes == began { // its state is lost: shown, so that it is removed
				m.vms[id] = &vmState{VM: id, Running: d.Running}
			}
			continue
		}
		seen[id] = d.Running
	}
	var errs []error
	for id, s := range m.vms {
		// While something is done to the VM, or was since the list was taken, the list is no news.
		if running, ok := seen[id]; (ok || s.Running) && len(m.acts[id]) == 0 && s.changed <= began {
			errs = append(errs, m.observe(s, running))
		}
		if port, ok := m.net.Port(id.String()); ok && s.Running {
			if l, ok := leases[port.MAC]; ok {
				errs = append(errs, m.alive(s, domain.TimeOf(l.At), l.Address))
			}
		}
		m.listen(id, s.Running)
	}
	return errors.Join(errs...)
}

// observe compares what was known with what runs. The caller holds m.mu.
func (m *Machine) observe(s *vmState, running bool) error {
	switch {
	case running && !s.Running && s.Starting != 0:
		// A start whose end was not seen: the daemon died in it.
		s.Boot, s.Starting, s.Running, s.Since = s.Starting, 0, true, now()
		return m.save(s)
	case running && !s.Running: // started by a person: its boot is the last one's
		s.Running, s.Since = true, now()
		return m.save(s)
	case !running && s.Starting != 0:
		s.Starting, s.Running = 0, false
		return m.save(s)
	case s.Running && !running:
		s.Running, s.Since = false, now()
		if !s.ours {
			m.emit(machine.Event{Kind: machine.GuestStopped, VM: s.VM, At: s.Since})
		}
		return m.save(s)
	}
	return nil
}

// alive notes the boot's first DHCP lease. The caller holds m.mu.
func (m *Machine) alive(s *vmState, at domain.Time, address string) error {
	began := s.Since - s.Since%domain.Time(domain.Second) // leases count whole seconds
	if s.Alive != 0 || s.Since == 0 || at < began {
		return nil
	}
	s.Alive, s.Address = max(at, s.Since), address
	m.emit(machine.Event{Kind: machine.GuestAlive, VM: s.VM, At: s.Alive, Address: address})
	return m.save(s)
}

// ready notes that the guest said ready.
func (m *Machine) ready(id domain.VMID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.vms[id]
	if s == nil || !s.Running || s.Ready != 0 {
		return
	}
	s.Ready = now()
	m.emit(machine.Event{Kind: machine.GuestReady, VM: id, At: s.Ready, Address: s.Address})
	if err := m.save(s); err != nil {
		m.o.Log.Warn("ready is not remembered", "vm", id, "err", err)
	}
}

// listen keeps one reader on the ready port of each running VM. The caller holds
// m.mu.
func (m *Machine) listen(id domain.VMID, running bool) {
	cancel, listening := m.watchers[id]
	switch {
	case running && !listening && !m.closed && m.cancel != nil:
		ctx, cancel := context.WithCancel(context.Background())
		m.watchers[id] = cancel
		m.done.Add(1)
		go func() { defer m.done.Done(); m.readReady(ctx, id) }()
	case !running && listening:
		cancel()
		delete(m.watchers, id)
	}
}

// readReady reads the ready port until ctx ends, connecting again when QEMU is
// there again. What the guest sends beside the word is thrown away, slowly: a
// guest that floods its port only waits.
func (m *Machine) readReady(ctx context.Context, id domain.VMID) {
	for ctx.Err() == nil {
		if c, err := m.d.dial(ctx, "gpuaas/"+readySocket(id)); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			var tail []byte
			buf := make([]byte, 256)
			for err == nil { // ends when QEMU goes or ctx does
				var n int
				n, err = c.Read(buf)
				tail = append(tail, buf[:n]...)
				for line, rest, ok := bytes.Cut(tail, []byte("\n")); ok; line, rest, ok = bytes.Cut(tail, []byte("\n")) {
					if tail = rest; string(bytes.TrimSpace(line)) == "ready" {
						m.ready(id)
					}
				}
				if len(tail) > 256 {
					tail = nil
				}
				pause(ctx, 100*time.Millisecond)
			}
			stop()
			_ = c.Close()
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				m.o.Log.Debug("ready port", "vm", id, "err", err)
			}
		}
		pause(ctx, 500*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// emit hands an event out; a reader that is slow loses it, and Observe says it too.
// The caller holds m.mu.
func (m *Machine) emit(e machine.Event) {
	if m.closed {
		return
	}
	if e.At == 0 {
		e.At = now()
	}
	select {
	case m.events <- e:
	default:
	}
}
