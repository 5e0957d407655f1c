//go:build lab

package emuhost_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// boot starts a host that is shut down at the test's end.
func boot(t *testing.T, o emuhost.Options) (*emuhost.Host, context.Context) {
	t.Helper()
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no host was booted: " + why)
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	began := time.Now()
	h, err := emuhost.Boot(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c := h.Console()
			t.Logf("console:\n%s", c[max(0, len(c)-3000):])
		}
		cancel()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	})
	t.Logf("booted in %.1f s", time.Since(began).Seconds())
	return h, ctx
}

// sh runs a script in the host, which has to end well.
func sh(t *testing.T, ctx context.Context, h *emuhost.Host, script string) string {
	t.Helper()
	out, err := h.Run(ctx, "sh", "-ec", script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestLabLongBoot(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{})
	commands(t, ctx, h)

	// Every device stands alone in its IOMMU group, with the driver that Debian gives it.
	got := sh(t, ctx, h, `for d in /sys/bus/pci/devices/0000:0[1-9]:*; do
		set -- /sys/kernel/iommu_groups/$(basename $(readlink $d/iommu_group))/devices/*
		echo "$(cat $d/vendor):$(cat $d/device) in $#, $(basename "$(readlink $d/driver)"), $(cat $d/reset_method)"; done`)
	const want = `0x1234:0x11e8 in 1, , bus
0x1af4:0x1110 in 1, , bus
0x1b36:0x0010 in 1, nvme, flr bus
0x1b36:0x0010 in 1, nvme, flr bus
0x8086:0x10c9 in 1, igb, flr pm bus`
	if got != want {
		t.Errorf("devices:\n%s\nwant:\n%s", got, want)
	}
	if got := sh(t, ctx, h, "cat /sys/class/nvme/nvme*/serial | sort | xargs"); got != "NVMESLOT0 NVMESLOT1" {
		t.Errorf("drives %s", got)
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Query().Get("from"))
	}))
	defer server.Close()
	inside := strings.Replace(server.URL, "127.0.0.1", emuhost.Gateway, 1)
	if got := sh(t, ctx, h, "curl -sS --max-time 20 "+inside+"/?from=inside"); got != "hello inside" {
		t.Errorf("the host reads %q from this machine's loopback", got)
	}

	// The two folders are one, and files come in with their mode.
	if err := os.WriteFile(filepath.Join(h.Share(), "there"), []byte("shared"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, ctx, h, "cat "+emuhost.SharePoint+"/there; echo back > "+emuhost.SharePoint+"/back"); got != "shared" {
		t.Errorf("the share has %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(h.Share(), "back")); string(b) != "back\n" {
		t.Errorf("from inside came %q, %v", b, err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ran"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.CopyIn(ctx, script, "/opt/new/script"); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, ctx, h, "/opt/new/script"); got != "ran" {
		t.Errorf("the script says %q", got)
	}
}

// commands: output, exit codes, signals, input and large output go through.
func commands(t *testing.T, ctx context.Context, h *emuhost.Host) {
	t.Helper()
	_, err := h.Run(ctx, "sh", "-c", "echo out; echo why >&2; exit 7")
	var exit *emuhost.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || !strings.Contains(exit.Stderr, "why") {
		t.Errorf("exit 7 is %v", err)
	}
	if _, err := h.Run(ctx, "no-such-program"); err == nil || errors.As(err, &exit) && exit.Code == 0 {
		t.Errorf("a missing program is %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := h.Run(short, "sleep", "600"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long is %v", err)
	}
	p, err := h.Start(emuhost.Command{Args: []string{"sh", "-c", "cat; sleep 600 & wait"}, Stdin: make([]byte, 3<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for len(p.Stdout()) < 3<<20 {
		select {
		case <-p.Done():
			t.Fatalf("ended: %v", p.Wait(ctx))
		case <-ctx.Done():
			t.Fatalf("only %d bytes came back", len(p.Stdout()))
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); !errors.As(err, &exit) || exit.Code != 128+9 {
		t.Errorf("a killed command is %v", err)
	}
	// The kill of what took too long is on its way, not awaited by anybody.
	sh(t, ctx, h, "for i in $(seq 50); do pgrep -x sleep || exit 0; sleep 0.1; done; exit 1")
}
