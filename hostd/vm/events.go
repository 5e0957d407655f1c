package vm

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"
)

// EventKind is what happened to a domain.
type EventKind string

// The kinds of events.
const (
	Started  EventKind = "started"
	Stopped  EventKind = "stopped"
	Rebooted EventKind = "rebooted" // the guest was reset, by itself or by us
)

// Event is libvirt's word on one domain. It is a hint: read [Host.List] for what is.
type Event struct {
	Kind EventKind
	Name string
}

// Events streams events until ctx ends or the connection is lost; then the channel
// closes. The reader must read until then.
func (h *Host) Events(ctx context.Context) (<-chan Event, error) {
	l, err := h.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("libvirt: events: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	life, err := l.LifecycleEvents(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("libvirt: lifecycle events: %w", err)
	}
	reboots, err := l.SubscribeEvents(ctx, libvirt.DomainEventIDReboot, nil)
	if err != nil {
		cancel()
		for range life { // ends because ctx did
		}
		return nil, fmt.Errorf("libvirt: reboot events: %w", err)
	}
	out := make(chan Event)
	go func() {
		defer close(out)
		defer cancel()
		for life != nil || reboots != nil { // ends when both closed: ctx over or connection lost
			select {
			case e, ok := <-life:
				if !ok {
					life = nil
					cancel()
					continue
				}
				if ev := lifecycle(e); ev.Kind != "" {
					out <- ev
				}
			case e, ok := <-reboots:
				if !ok {
					reboots = nil
					cancel()
					continue
				}
				if m, ok := e.(*libvirt.DomainEventCallbackRebootMsg); ok {
					out <- Event{Rebooted, m.Msg.Dom.Name}
				}
			}
		}
	}()
	return out, nil
}

func lifecycle(e libvirt.DomainEventLifecycleMsg) Event {
	switch libvirt.DomainEventType(e.Event) {
	case libvirt.DomainEventStarted:
		return Event{Started, e.Dom.Name}
	case libvirt.DomainEventStopped, libvirt.DomainEventCrashed:
		return Event{Stopped, e.Dom.Name}
	}
	return Event{}
}
