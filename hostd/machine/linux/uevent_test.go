package linux

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/hostd/machine"
)

// fakeUevents is the kernel's multicast: what is sent is read, one by one.
type fakeUevents struct {
	sent   chan any // string: a message; error: of the read
	refuse error    // of the next open
}

func (f *fakeUevents) open() (io.ReadCloser, error) {
	if f.refuse != nil {
		return nil, f.refuse
	}
	return &fakeSocket{f, make(chan struct{})}, nil
}

type fakeSocket struct {
	*fakeUevents
	closed chan struct{}
}

func (f *fakeSocket) Read(b []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, io.ErrClosedPipe
	case s := <-f.sent:
		if err, ok := s.(error); ok {
			return 0, err
		}
		return copy(b, s.(string)), nil
	}
}

func (f *fakeSocket) Close() error {
	close(f.closed)
	return nil
}

// uevent is a message as the kernel writes it.
func uevent(action, subsystem string) string {
	return strings.Join([]string{
		action + "@/devices/pci0000:00/0000:00:01.1/0000:11:00.0", "ACTION=" + action, "DEVPATH=/devices/pci0000:00/0000:00:01.1/0000:11:00.0",
		"SUBSYSTEM=" + subsystem, "PCI_SLOT_NAME=0000:11:00.0", "SEQNUM=4711", "",
	}, "\x00")
}

func TestMoves(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		uevent("add", "pci"): true, uevent("remove", "pci"): true,
		uevent("bind", "pci"): false, uevent("change", "pci"): false, uevent("add", "pci_bus"): false, uevent("add", "nvme"): false,
		"": false, "add@/x": false, "ACTION=add\x00SUBSYSTEM": false, "libudev\x00\xfe\xed\xca\xfe": false,
	} {
		if got := moves([]byte(message)); got != want {
			t.Errorf("%q: %v", message, got)
		}
	}
}

// A device that comes is said after a moment, and once more; a storm is said once a
// moment; what is only bound is not said.
func TestHardwareMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		news, moved := &fakeUevents{sent: make(chan any)}, make(chan struct{}, 1)
		var times atomic.Int32
		socket, err := news.open()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := readUevents(ctx, socket, moved); !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		})
		wg.Go(func() { sayMoved(ctx, moved, func() { times.Add(1) }) })
		said := func(within time.Duration, what string, want int32) {
			t.Helper()
			time.Sleep(within)
			synctest.Wait()
			if n := times.Swap(0); n != want {
				t.Errorf("said %d times %s, want %d", n, what, want)
			}
		}
		news.sent <- uevent("bind", "pci")
		said(time.Minute, "of a driver", 0)
		news.sent <- uevent("add", "pci")
		said(2*time.Second, "at once", 1)
		said(time.Hour, "later", 1)
		for range 1000 {
			news.sent <- uevent("remove", "pci")
			time.Sleep(10*time.Millisecond - time.Microsecond)
		}
		said(0, "in a storm of ten seconds", 9)
		said(time.Hour, "after it", 2)
		news.sent <- unix.ENOBUFS
		said(2*time.Second, "when the kernel dropped some", 1)
		cancel()
		wg.Wait()
	})
}

// The machine says so, and runs where the kernel does not tell it.
func TestMachineSaysThatHardwareMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.news.sent <- uevent("add", "pci")
	late := time.After(time.Minute)
	for moved := false; !moved; {
		select {
		case e := <-w.m.Events():
			moved = e.Kind == machine.HardwareMoved
		case <-late:
			t.Fatal("nothing was said")
		}
	}
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.news.refuse = unix.EPERM
	w.open()
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.isUp(v)
}

// The kernel repeats a function's "add" for who writes the word to its uevent file.
func TestKernelUevents(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("/sys/bus/pci/devices/*/uevent")
	if os.Geteuid() != 0 || len(files) == 0 {
		t.Skip("SKIPPED: needs root and a PCI device")
	}
	news, err := kernelUevents()
	if err != nil {
		t.Fatal(err)
	}
	moved, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- readUevents(ctx, news, moved) }()
	if err := os.WriteFile(files[0], []byte("add"), 0); err != nil {
		t.Skipf("SKIPPED: the kernel repeats nothing here: %v", err)
	}
	select {
	case <-moved:
	case <-time.After(time.Minute):
		t.Error("the kernel's word did not come")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("it ended without its source")
	}
}
