package wipe

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

// TestNoFaultIsVerified runs every fault under every policy.
func TestNoFaultIsVerified(t *testing.T) {
	t.Parallel()
	if len(faults) < 40 {
		t.Fatalf("only %d faults", len(faults))
	}
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for j, policy := range policies {
				if testing.Short() && (i+j)%len(policies) != 0 {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					d := newDrive(t, policy, func(d *nvmefake.Drive) { d.CMIC, d.Namespaces[1].Shared = 2, true })
					f.script(d)
					ev := d.erase()
					if ev.Result == domain.WipeVerified {
						t.Fatalf("%s: verified: %+v", policy, ev)
					}
					if !slices.Contains(strings.Split(f.codes, "|"), ev.Reason) {
						t.Errorf("%s: %s (%s), want %s", policy, ev.Reason, ev.Detail, f.codes)
					}
				})
			}
		})
	}
}

// TestMethodsThatFail are drives that fail in ways of one method.
func TestMethodsThatFail(t *testing.T) {
	t.Parallel()
	starts := func(op *nvmefake.Op) bool { return op.Admin(nvme.OpSanitize) }
	for name, c := range map[string]struct {
		policy domain.WipePolicy
		code   string
		script func(d *drive)
	}{
		"completes, the log says failed": {domain.WipeSanitize, SanitizeFailed, func(d *drive) { d.SanitizeFails = true }},
		"completes, never began":         {domain.WipeSanitize, SanitizeNotStarted, func(d *drive) { d.Hook = failing(starts, nil) }},
		"the log speaks of another": {domain.WipeSanitize, SanitizeOther, func(d *drive) {
			d.Hook = answering(after(starts, logs(0x81)), func(b []byte) { b[4] = 2 })
		}},
		"an older one is shown": {domain.WipeSanitize, CanarySurvived, func(d *drive) {
			d.SanitizeTakes = 0
			d.BeginSanitize(nvme.SanitizeKeysGone)
			d.Leaks("") // the older one ends
			d.Fill(1, secret, 3)
			d.Hook = failing(starts, nil)
		}},
		"stands still":                  {domain.WipeSanitize, SanitizeStuck, func(d *drive) { d.SanitizeTakes = 1 << 60 }},
		"the log cannot be read":        {domain.WipeSanitize, IOError, func(d *drive) { d.Hook = failing(after(starts, logs(0x81)), unix.EIO) }},
		"fails, and is not passed over": {domain.WipeAuto, SanitizeFailed, func(d *drive) { d.SanitizeFails = true }},
		"a crypto format that erases nothing": {domain.WipeFormat, CanarySurvived, func(d *drive) {
			d.Hook = failing(func(op *nvmefake.Op) bool { return op.Admin(nvme.OpFormat) }, nil)
		}},
		"every method is refused": {domain.WipeSanitize, Unsupported, func(d *drive) { d.Hook = failing(starts, nvme.InvalidOpcode) }},
		"no such policy":          {domain.WipePolicy(9), UnknownPolicy, func(*drive) {}},
		"no policy":               {domain.WipeUnset, UnknownPolicy, func(*drive) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDrive(t, c.policy, nil)
				c.script(d)
				if ev := d.erase(); ev.Reason != c.code {
					t.Errorf("%+v, want %s", ev, c.code)
				}
			})
		})
	}
	t.Run("zeroes that are not written", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := newDrive(t, domain.WipeAuto, only(0, false, false, true, nvme.ReadsUnknown))
			d.Hook = failing(kind("zeroes"), nil)
			if ev := d.erase(); ev.Reason != CanarySurvived || ev.Method != "write-zeroes" {
				t.Errorf("%+v", ev)
			}
		})
	})
}

// A drive that the host holds is told nothing that changes it, whatever it needs.
func TestHeldDriveIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(d *drive){
		"":              func(*drive) {},
		"other format":  func(d *drive) { d.Namespaces[1].Format = 1 },
		"write protect": func(d *drive) { d.Namespaces[1].Protection = nvme.ProtectedUntilTold },
		"failure mode":  func(d *drive) { d.FailedSanitize() },
	} {
		for _, policy := range policies {
			synctest.Test(t, func(t *testing.T) {
				d := newDrive(t, policy, nil)
				script(d)
				d.Hook = func(op *nvmefake.Op, do func() error) error {
					switch {
					case op.Kind == "open":
						return unix.EBUSY
					case op.Kind != "admin" || op.Admin(nvme.OpFormat) || op.Admin(nvme.OpSanitize) || op.Admin(nvme.OpSetFeatures):
						t.Errorf("%s, %s: %s %+v", policy, name, op.Kind, op.Cmd)
					}
					return do()
				}
				if ev := d.erase(); ev.Reason != InUse {
					t.Errorf("%+v", ev)
				}
			})
		}
	}
}
