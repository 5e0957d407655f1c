package guest

import (
	"context"
	"errors"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// watch looks at what is, every half second and whenever libvirt says that
// something happened, until ctx ends. What it looks at are states, never only
// events: an event that is lost costs half a second.
func (g *Guests) watch(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	g.done.Add(1)
	go func() { defer g.done.Done(); g.follow(ctx) }()
	failures := 0
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.nudge:
		}
		looking, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := g.refresh(looking)
		switch {
		case err == nil:
			failures = 0
			if g.o.Tend != nil {
				err = g.o.Tend(looking)
			}
		case ctx.Err() == nil:
			if failures++; failures%10 == 3 && g.o.Repair != nil { // 1.5 s without an answer, then every 5 s
				g.o.Log.Warn("libvirtd does not answer: starting what is missing", "err", err)
				err = g.o.Repair(looking)
			}
		}
		if err != nil && ctx.Err() == nil {
			g.o.Log.Warn("cannot look at the VMs", "err", err)
		}
		cancel()
	}
}

// look asks the watcher to look now.
func (g *Guests) look() {
	select {
	case g.nudge <- struct{}{}:
	default: // it will anyway
	}
}

// follow turns libvirt's events into nudges, and counts resets: those are the one
// thing that no state shows.
func (g *Guests) follow(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := g.o.Host.Events(ctx)
		if err == nil {
			for e := range events {
				if e.Kind == vm.Rebooted {
					var id domain.VMID
					if id.UnmarshalText([]byte(e.Name)) == nil {
						g.reset(id)
					}
				}
				g.look()
			}
		}
		pause(ctx, time.Second)
	}
}

// reset notes that the guest was reset. If a reboot of ours is in progress that
// was it: the next boot begins now, and nothing is known of it. A guest that reboots by
// itself stays in its boot.
func (g *Guests) reset(id domain.VMID) {
	if s, ok := g.State(id); ok && !s.rebooting {
		return // as often as it likes
	}
	err := g.Update(id, func(s *State) {
		if s.rebooting {
			s.rebooting = false
			s.Boot++
			s.Since, s.Alive, s.Ready, s.Doubts = now(), 0, 0, nil
		}
		g.emit(machine.Event{Kind: machine.Changed, VM: id, Detail: "reset"})
	})
	if err != nil {
		g.o.Log.Warn("a reset is not remembered", "vm", id, "err", err)
	}
}

// refresh brings the states up to what libvirt and the network say.
func (g *Guests) refresh(ctx context.Context) error {
	g.mu.Lock()
	began := g.changes
	g.mu.Unlock()
	domains, err := g.o.Host.List(ctx)
	if err != nil {
		return err
	}
	signs, err := g.o.Signs()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := map[domain.VMID]*vm.State{}
	for i, d := range domains {
		var id domain.VMID
		if id.UnmarshalText([]byte(d.Name)) != nil {
			continue // not ours: only a person can have made it
		}
		s := g.vms[id]
		if s == nil {
			if len(g.acts[id]) == 0 && g.changes == began { // its state is lost: shown, so that it is removed
				g.vms[id] = &State{VM: id, Running: d.Running}
			}
			continue
		}
		seen[id] = &domains[i]
	}
	var errs []error
	for id, s := range g.vms {
		// While something is done to the VM, or was since the list was taken, the list is no news.
		if d := seen[id]; (d != nil || s.Running) && len(g.acts[id]) == 0 && s.changed <= began {
			errs = append(errs, g.observe(s, d))
		}
		if sign, ok := signs[s.MAC]; ok && s.MAC != "" && s.Running {
			errs = append(errs, g.alive(s, domain.TimeOf(sign.At), sign.Address))
		}
		g.listen(id, s.Running)
	}
	return errors.Join(errs...)
}

// observe compares what was known with what libvirt says of the domain; nil: it has
// none. The caller holds g.mu.
func (g *Guests) observe(s *State, d *vm.State) error {
	running := d != nil && d.Running
	switch {
	case running && s.Starting != 0:
		// A start whose end was not seen: the daemon died in it.
		s.Boot = s.Starting
		s.runs(now(), g.o.HostBoot)
	case running && !s.Running: // started by a person: its boot is the last one's
		s.runs(now(), g.o.HostBoot)
	case running && s.HostBoot == "": // by a daemon that did not write it down
		s.HostBoot = g.o.HostBoot
	case running && s.HostBoot != g.o.HostBoot: // by a person, after the host had booted
		s.Alive, s.Ready = 0, 0
		s.runs(now(), g.o.HostBoot)
	case !running && s.Starting != 0:
		s.Starting, s.Running = 0, false
	case !running && s.Running:
		g.ended(s, d)
	default:
		return nil
	}
	return g.save(s)
}

// alive notes the boot's first sign of life. The caller holds g.mu.
func (g *Guests) alive(s *State, at domain.Time, address string) error {
	began := s.Since - s.Since%domain.Time(domain.Second) // leases count whole seconds
	if s.Alive != 0 || s.Since == 0 || at < began {
		return nil
	}
	s.Alive, s.Address = max(at, s.Since), address
	g.emit(machine.Event{Kind: machine.GuestAlive, VM: s.VM, At: s.Alive, Address: address})
	return g.save(s)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
