package linux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// The real way to the probe, a program with a JSON object to say.
func TestProbe(t *testing.T) { // not beside others: what they start could keep the program open for writing
	w := newWorld(t, 1)
	w.m.o.Run = program.Execute
	path := filepath.Join(t.TempDir(), "probe")
	w.m.o.Probe = path
	spec := w.withVF()
	for name, c := range map[string]struct {
		script, found, reason, scope, fails string
	}{
		"clean":             {`echo '{"clean": true, "found": "80 GiB", "seconds": 4}'`, "80 GiB", "", "", ""},
		"gets addresses":    {`printf '{"clean": true, "found": "%s"}' "$*"`, "gpu=0000:10:00.0 gpu=0000:10:00.1 ib_vf=0000:60:00.1", "", "", ""},
		"names the board":   {`echo '{"clean": false, "found": "link 3 is down", "reason": "wipe.probe_nvlink", "scope": "baseboard"}'`, "", "wipe.probe_nvlink", "baseboard", "link 3"},
		"names another":     {`echo '{"clean": false, "found": "x", "reason": "wipe.verified", "scope": "world"}'`, "", wipe.ProbeFailed, "device", "x"},
		"does not say":      {`echo '{"found": "80 GiB"}'`, "", "", "", "no object"},
		"says no JSON":      {`echo all well`, "", "", "", "no object"},
		"says two things":   {`echo '{"clean": true} {"clean": false}'`, "", "", "", "no object"},
		"fails":             {`echo '{"clean": true}'; echo ECC error >&2; exit 3`, "", "", "", "ECC error"},
		"says far too much": {`echo '{"clean": true}'; head -c 70000 /dev/zero | tr '\0' ' '`, "", "", "", "at most"},
	} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		found, err := prober{w.m}.Run(t.Context(), &spec)
		var f *wipe.Finding
		switch {
		case c.fails == "":
			if err != nil || found != c.found {
				t.Errorf("%s: %q, %v", name, found, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.fails):
			t.Errorf("%s: %q, %v", name, found, err)
		case errors.As(err, &f) != (c.reason != "") || f != nil && (f.Reason != c.reason || f.Scope != c.scope):
			t.Errorf("%s: %+v", name, f)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (prober{w.m}).Run(gone, &spec); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	if _, err := (Options{Dir: t.TempDir(), Uplink: "lo", Probe: "probe"}).withDefaults(); err == nil {
		t.Error("a probe without a whole path")
	}
}
