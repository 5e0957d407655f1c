//go:build lab

package emuhost_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// bootLimit is how long a host may take from power on to the first command.
const bootLimit = 45 * time.Second

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
	took := time.Since(began)
	t.Logf("booted in %.1f s", took.Seconds())
	if took > bootLimit {
		t.Errorf("a boot took %v, more than %v", took, bootLimit)
	}
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

func TestLabBoot(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{})
	t.Log(sh(t, ctx, h, "lspci -nn; free -m; cat /proc/uptime"))
	t.Log(sh(t, ctx, h, `for d in /sys/bus/pci/devices/*; do echo "${d##*/} $(cat $d/vendor):$(cat $d/device) $(cat $d/class) group $(basename $(readlink $d/iommu_group)) driver $(basename $(readlink $d/driver)) reset $(cat $d/reset_method)"; done`))

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Query().Get("from"))
	}))
	defer server.Close()
	inside := strings.Replace(server.URL, "127.0.0.1", emuhost.Gateway, 1)
	if got := sh(t, ctx, h, "curl -sS --max-time 20 "+inside+"/?from=inside"); got != "hello inside" {
		t.Errorf("the host reads %q from this machine's loopback", got)
	}
}
