package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// Dial connects to libvirtd's socket.
type Dial func(ctx context.Context) (net.Conn, error)

// State is one defined domain.
type State struct {
	Name    string
	UUID    [16]byte
	Running bool // anything but shut off or crashed: paused still holds its devices
	End     End  // of one that is off: why
}

// End is why a domain is off. libvirt forgets it when it starts again itself.
type End string

// The ends of a domain.
const (
	EndUnknown   End = ""
	EndShutdown  End = "shutdown"  // the guest powered off, or was asked to
	EndDestroyed End = "destroyed" // somebody pulled the plug
	EndCrashed   End = "crashed"   // QEMU went away without a word
)

// endOf reads libvirt's virDomainShutoffReason.
func endOf(state, reason int32) End {
	if libvirt.DomainState(state) == libvirt.DomainCrashed {
		return EndCrashed
	}
	switch libvirt.DomainShutoffReason(reason) {
	case libvirt.DomainShutoffShutdown:
		return EndShutdown
	case libvirt.DomainShutoffDestroyed:
		return EndDestroyed
	case libvirt.DomainShutoffCrashed, libvirt.DomainShutoffFailed, libvirt.DomainShutoffDaemon:
		return EndCrashed
	}
	return EndUnknown
}

// Host is one libvirtd. The zero value is not usable: see [NewHost]. All methods
// are safe for concurrent use and return when ctx ends; a connection whose call
// did not return in time is thrown away.
type Host struct {
	dial Dial

	mu   sync.Mutex
	lv   *libvirt.Libvirt
	conn net.Conn
}

// NewHost makes a Host; it connects at the first call and again after a loss.
func NewHost(dial Dial) *Host { return &Host{dial: dial} }

// Close ends the connection. The domains go on running.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		return nil
	}
	err := h.conn.Close()
	if h.lv != nil && h.lv.IsConnected() {
		<-h.lv.Disconnected() // the reader ends as soon as its connection is closed
	}
	h.lv, h.conn = nil, nil
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Ping says whether libvirtd answers.
func (h *Host) Ping(ctx context.Context) error {
	_, err := call(ctx, h, "ping", func(l *libvirt.Libvirt) (uint64, error) { return l.ConnectGetLibVersion() })
	return err
}

// Machine is the versioned machine type that q35 stands for in the QEMU that is
// installed, for instance "pc-q35-7.2". See [Pins].
func (h *Host) Machine(ctx context.Context, kvm bool) (string, error) {
	virt := "qemu"
	if kvm {
		virt = "kvm"
	}
	return call(ctx, h, "machine type", func(l *libvirt.Libvirt) (string, error) {
		text, err := l.ConnectGetDomainCapabilities(libvirt.OptString{emulator}, libvirt.OptString{"x86_64"}, libvirt.OptString{"q35"}, libvirt.OptString{virt}, 0)
		if err != nil {
			return "", err
		}
		var caps struct {
			Machine string `xml:"machine"`
		}
		if err := xml.Unmarshal([]byte(text), &caps); err != nil {
			return "", err
		}
		if !versioned.MatchString(caps.Machine) {
			return "", fmt.Errorf("QEMU calls q35 %q, want a versioned machine type", caps.Machine)
		}
		return caps.Machine, nil
	})
}

// List returns all domains, running or not.
func (h *Host) List(ctx context.Context) ([]State, error) {
	return call(ctx, h, "list domains", func(l *libvirt.Libvirt) ([]State, error) {
		all, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		states := make([]State, 0, len(all))
		for _, d := range all {
			st, reason, err := l.DomainGetState(d, 0)
			if libvirt.IsNotFound(err) {
				continue // undefined meanwhile
			}
			if err != nil {
				return nil, err
			}
			s := State{Name: d.Name, UUID: d.UUID, Running: isRunning(st)}
			if !s.Running {
				s.End = endOf(st, reason)
			}
			states = append(states, s)
		}
		return states, nil
	})
}

// Running says whether the domain runs; one that does not exist does not run.
func (h *Host) Running(ctx context.Context, name string) (bool, error) {
	return call(ctx, h, "state of "+name, func(l *libvirt.Libvirt) (bool, error) {
		d, err := l.DomainLookupByName(name)
		if libvirt.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		st, _, err := l.DomainGetState(d, 0)
		return isRunning(st), err
	})
}

// Define stores the domain, replacing an older definition of the same name.
func (h *Host) Define(ctx context.Context, xml string) error {
	_, err := call(ctx, h, "define", func(l *libvirt.Libvirt) (libvirt.Domain, error) {
		return l.DomainDefineXMLFlags(xml, libvirt.DomainDefineValidate)
	})
	return err
}

// Start starts a defined domain; a running one is left alone.
func (h *Host) Start(ctx context.Context, name string) error {
	return h.with(ctx, "start "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		if st, _, err := l.DomainGetState(d, 0); err != nil || isRunning(st) {
			return err
		}
		return l.DomainCreate(d)
	})
}

// PowerButton presses the ACPI power button of a running domain.
func (h *Host) PowerButton(ctx context.Context, name string) error {
	return h.with(ctx, "power button of "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
	})
}

// Reboot presses the power button and has libvirt start the machine anew, in the
// same process, once the guest is down.
func (h *Host) Reboot(ctx context.Context, name string) error {
	return h.with(ctx, "reboot "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainReboot(d, libvirt.DomainRebootAcpiPowerBtn)
	})
}

// Reset pulls and pushes the reset line: the guest is not asked.
func (h *Host) Reset(ctx context.Context, name string) error {
	return h.with(ctx, "reset "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainReset(d, 0)
	})
}

// Destroy pulls the plug; a domain that is off or absent is left alone.
func (h *Host) Destroy(ctx context.Context, name string) error {
	return h.ifExists(ctx, "destroy "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		if st, _, err := l.DomainGetState(d, 0); err != nil || !isRunning(st) {
			return err
		}
		return l.DomainDestroyFlags(d, libvirt.DomainDestroyDefault)
	})
}

// Undefine forgets the domain and deletes its variable store and the state of its
// TPM. An absent one is left alone.
func (h *Host) Undefine(ctx context.Context, name string) error {
	return h.ifExists(ctx, "undefine "+name, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainUndefineFlags(d, libvirt.DomainUndefineNvram|libvirt.DomainUndefineTpm)
	})
}

// ifExists is with, but an absent domain is no error.
func (h *Host) ifExists(ctx context.Context, what, name string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	err := h.with(ctx, what, name, f)
	if IsNotFound(err) {
		return nil
	}
	return err
}

// with looks the domain up and calls f.
func (h *Host) with(ctx context.Context, what, name string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	_, err := call(ctx, h, what, func(l *libvirt.Libvirt) (struct{}, error) {
		d, err := l.DomainLookupByName(name)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, f(l, d)
	})
	return err
}

func isRunning(state int32) bool {
	switch libvirt.DomainState(state) {
	case libvirt.DomainShutoff, libvirt.DomainCrashed, libvirt.DomainNostate:
		return false
	}
	return true
}

// call runs f on a live connection and returns when f does or ctx ends.
func call[T any](ctx context.Context, h *Host, what string, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	var zero T
	l, err := h.connect(ctx)
	if err != nil {
		return zero, fmt.Errorf("libvirt: %s: %w", what, err)
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(l)
		done <- result{v, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done: // at the same moment: the connection is good
		default:
			h.drop(l) // so that f returns
			return zero, fmt.Errorf("libvirt: %s: %w", what, ctx.Err())
		}
	}
	if r.err != nil {
		return zero, fmt.Errorf("libvirt: %s: %w", what, r.err)
	}
	return r.v, nil
}

// connect returns the live connection, dialing if there is none.
func (h *Host) connect(ctx context.Context) (*libvirt.Libvirt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lv != nil && h.lv.IsConnected() {
		return h.lv, nil
	}
	conn, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	l := libvirt.NewWithDialer(dialed{conn})
	if err := l.ConnectToURI(libvirt.QEMUSystem); err != nil {
		return nil, errors.Join(err, ctx.Err(), conn.Close())
	}
	h.lv, h.conn = l, conn
	return l, nil
}

func (h *Host) drop(l *libvirt.Libvirt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lv == l {
		_ = h.conn.Close()
		h.lv, h.conn = nil, nil
	}
}

// dialed gives go-libvirt a connection that is already there.
type dialed struct{ conn net.Conn }

func (d dialed) Dial() (net.Conn, error) { return d.conn, nil }

// IsNotFound says whether err is libvirt's "no such domain".
func IsNotFound(err error) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(libvirt.ErrNoDomain)
}
