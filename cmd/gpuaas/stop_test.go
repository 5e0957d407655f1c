package main_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// TestStopAndGoOn stops a site by Ctrl-C: nothing is left running, and the next
// start goes on where it was.
func TestStopAndGoOn(t *testing.T) {
	t.Parallel()
	s := dev(t, 1, 2)
	te := s.newTenant("acme", 100_000_000)
	a := te.launch(obj{"sku": "gpu-1x"})
	te.becomes(a.ID, "running")
	vms := simVMs(t, s.dir)

	// The directory belongs to one process.
	_, stderr, code := tool(t, "dev", "--data-dir", s.dir, "--listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, s.dir+" is in use by another gpuaas process") {
		t.Errorf("a second start: exit code %d: %s", code, stderr)
	}
	te.becomes(a.ID, "running") // and is not disturbed by the attempt

	nats, err := os.ReadFile(filepath.Join(s.dir, "nats.url"))
	if err != nil {
		t.Fatal(err)
	}
	s.interrupt()
	if left := processesOf(s.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, address := range []string{s.address(), strings.TrimSpace(string(nats))} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		l.Close()
	}
	if after := simVMs(t, s.dir); !reflect.DeepEqual(after, vms) {
		t.Errorf("VMs %v run, were %v", after, vms)
	}

	// A stopped site's log can be read, and is left as it was.
	verified(t, s)
	s.start()
	got := te.becomes(a.ID, "running")
	if !vms[got.VMs[0].ID] || len(boots(te, a.ID)) != 1 {
		t.Errorf("%+v did not run on", got)
	}
	te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
	te.becomes(a.ID, "released")
	exactBalance(t, te, 100_000_000, a.ID)
	s.interrupt()
}

// TestPortInUse says which address it could not have.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, stderr, code := tool(t, "serve", "--data-dir", dataDir(t), "--listen", l.Addr().String())
	if code != 1 || !strings.Contains(stderr, l.Addr().String()) || !strings.Contains(stderr, "address already in use") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestLeaveNotice: between SIGTERM and its end a process is not ready, and serves.
func TestLeaveNotice(t *testing.T) {
	t.Parallel()
	s := newSite(t, "serve", "--leave-notice-seconds", "2")
	op := s.operator()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit, "not ready", func() error {
		status, body, err := look(s.address(), "/readyz")
		if err != nil {
			t.Fatalf("it ended without notice: %v", err)
		}
		if status != 503 || !strings.Contains(body, "about to end") {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	op.do(201, "POST", "/v1/tenants", obj{"name": "late", "currency": "USD"})
	if code := s.ended(t, limit); code != 0 {
		t.Errorf("exit code %d:\n%s", code, s.out.tail())
	}
}
