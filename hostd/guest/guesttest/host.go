// Package guesttest is a libvirt in memory, for tests: domains that are defined,
// run and end, without guests in them.
package guesttest

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/hostd/vm"
)

// Host is a libvirtd. It implements guest.Hypervisor.
type Host struct {
	// Before is called with the name of every call that changes something and its
	// domain, before it is done, and After when it was: an error is the call's.
	Before, After func(call, domain string) error
	// Polite guests go down when the power button is pressed.
	Polite bool

	mu      sync.Mutex
	xml     map[string]string
	running map[string]bool
	ends    map[string]vm.End
	events  []chan vm.Event
}

// New makes a host without domains.
func New() *Host {
	return &Host{xml: map[string]string{}, running: map[string]bool{}, ends: map[string]vm.End{}}
}

// Domains are the definitions, by name.
func (h *Host) Domains() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]string, len(h.xml))
	for k, v := range h.xml {
		out[k] = v
	}
	return out
}

// Die ends every domain, as when the host loses power: libvirt knows of nothing.
func (h *Host) Die() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running, h.ends = map[string]bool{}, map[string]vm.End{}
}

// End ends one domain past everybody: its guest powers off, or QEMU crashes.
func (h *Host) End(name string, end vm.End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended(name, end)
	h.send(vm.Event{Kind: vm.Stopped, Name: name})
}

func (h *Host) ended(name string, end vm.End) {
	delete(h.running, name)
	h.ends[name] = end
}

// List implements guest.Hypervisor.
func (h *Host) List(ctx context.Context) ([]vm.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []vm.State
	for name, text := range h.xml {
		var d struct {
			UUID uuid.UUID `xml:"uuid"`
		}
		if err := xml.Unmarshal([]byte(text), &d); err != nil {
			return nil, fmt.Errorf("guesttest: %w", err)
		}
		out = append(out, vm.State{Name: name, UUID: d.UUID, Running: h.running[name], End: h.ends[name]})
	}
	return out, ctx.Err()
}

// Running implements guest.Hypervisor.
func (h *Host) Running(ctx context.Context, name string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running[name], ctx.Err()
}

// Define implements guest.Hypervisor.
func (h *Host) Define(ctx context.Context, text string) error {
	var d struct {
		Name string `xml:"name"`
	}
	if err := xml.Unmarshal([]byte(text), &d); err != nil || d.Name == "" {
		return fmt.Errorf("guesttest: no domain: %w", err)
	}
	return h.do(ctx, "define", d.Name, func() error { h.xml[d.Name] = text; return nil })
}

// Start implements guest.Hypervisor.
func (h *Host) Start(ctx context.Context, name string) error {
	return h.do(ctx, "start", name, func() error {
		if h.xml[name] == "" {
			return fmt.Errorf("guesttest: no domain %s", name)
		}
		h.running[name] = true
		delete(h.ends, name)
		return nil
	})
}

// PowerButton implements guest.Hypervisor.
func (h *Host) PowerButton(ctx context.Context, name string) error {
	return h.do(ctx, "power button", name, func() error {
		if h.Polite {
			h.ended(name, vm.EndShutdown)
		}
		return nil
	})
}

// Reboot implements guest.Hypervisor.
func (h *Host) Reboot(ctx context.Context, name string) error {
	return h.do(ctx, "reboot", name, func() error {
		if !h.running[name] {
			return errors.New("guesttest: not running")
		}
		h.send(vm.Event{Kind: vm.Rebooted, Name: name})
		return nil
	})
}

// Reset implements guest.Hypervisor.
func (h *Host) Reset(ctx context.Context, name string) error { return h.Reboot(ctx, name) }

// Destroy implements guest.Hypervisor.
func (h *Host) Destroy(ctx context.Context, name string) error {
	return h.do(ctx, "destroy", name, func() error {
		if h.running[name] {
			h.ended(name, vm.EndDestroyed)
			h.send(vm.Event{Kind: vm.Stopped, Name: name})
		}
		return nil
	})
}

// Undefine implements guest.Hypervisor.
func (h *Host) Undefine(ctx context.Context, name string) error {
	return h.do(ctx, "undefine", name, func() error { delete(h.xml, name); return nil })
}

// Events implements guest.Hypervisor.
func (h *Host) Events(ctx context.Context) (<-chan vm.Event, error) {
	in, out := make(chan vm.Event, 64), make(chan vm.Event)
	h.mu.Lock()
	h.events = append(h.events, in)
	h.mu.Unlock()
	go func() {
		defer close(out)
		for { // ends with ctx
			select {
			case <-ctx.Done():
				return
			case e := <-in:
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

func (h *Host) send(e vm.Event) {
	for _, c := range h.events {
		select {
		case c <- e:
		default:
		}
	}
}

func (h *Host) do(ctx context.Context, call, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.Before != nil {
		if err := h.Before(call, name); err != nil {
			return err
		}
	}
	h.mu.Lock()
	err := f()
	h.mu.Unlock()
	if err == nil && h.After != nil {
		err = h.After(call, name)
	}
	return err
}
