package wipe

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

const (
	serial    = "S6CKNE0T123456"
	secret    = "tenant-secret-7f3a"
	driveSize = 8 << 20
)

// drive is a drive that was approved, then rented: its baseline is kept, and the
// tenant's secret is all over it.
type drive struct {
	*nvmefake.Drive
	t     *testing.T
	store *Store
	wipe  domain.PlacedWipe
}

// newDrive makes one. setup sees it before its baseline is taken.
func newDrive(t *testing.T, policy domain.WipePolicy, setup func(d *nvmefake.Drive)) *drive {
	t.Helper()
	d := &drive{Drive: nvmefake.New(serial, driveSize), t: t}
	if setup != nil {
		setup(d.Drive)
	}
	var err error
	if d.store, err = OpenStore(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s, _, err := look(t.Context(), d.Open(), serial)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.store.save(kindBaseline, serial, s); err != nil {
		t.Fatal(err)
	}
	d.wipe = domain.PlacedWipe{Lease: domain.Lease{Generation: 3, Nonce: domain.DigestOf([]byte("nonce"))}, Policy: policy}
	for id := range d.Namespaces {
		d.Fill(id, secret, 3)
	}
	return d
}

// erase is one run of the wipe.
func (d *drive) erase() domain.DeviceWipe {
	d.t.Helper()
	ev, err := Drive(d.t.Context(), d.Open(), d.store, serial, &d.wipe)
	if err != nil {
		d.t.Fatal(err)
	}
	d.honest(ev)
	return ev
}

// honest fails the test when evidence says more than is true of the drive.
func (d *drive) honest(ev domain.DeviceWipe) {
	d.t.Helper()
	if ev.Result != domain.WipeVerified {
		if ev.Result != domain.WipeFailed || ev.Reason == "" || ev.Detail == "" || ev.Scope == "" {
			d.t.Fatalf("evidence that says nothing: %+v", ev)
		}
		return
	}
	hook := d.Hook
	d.Hook = nil
	defer func() { d.Hook = hook }()
	if n := d.Leaks(secret); n > 0 {
		d.t.Fatalf("verified by %s, and %d chunks hold the secret: %+v", ev.Method, n, ev)
	}
	if ev.Planted < 3 || ev.Gone != ev.Planted || ev.BytesRead == 0 || ev.Firmware == "" || ev.Firmware != ev.Approved || ev.Baseline.IsZero() || ev.Reason != "" ||
		ev.StartedAt > ev.EndedAt || ev.Serial != serial || len(ev.Log) == 0 {
		d.t.Fatalf("verified with incomplete evidence: %+v", ev)
	}
}

// only makes a drive that can do nothing but these.
func only(sanicap uint32, format, crypto, zeroes bool, reads nvme.Deallocated) func(d *nvmefake.Drive) {
	return func(d *nvmefake.Drive) {
		d.SANICAP, d.FNA, d.ONCS = sanicap, 0, 0
		d.OACS &^= 1 << 1
		if format {
			d.OACS |= 1 << 1
		}
		if crypto {
			d.FNA = 1 << 2
		}
		if zeroes {
			d.ONCS = 1 << 3
		}
		for _, n := range d.Namespaces {
			n.Deallocated = reads
		}
	}
}

// TestGoodDrives erases drives of several kinds under every policy.
func TestGoodDrives(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setup                             func(d *nvmefake.Drive)
		auto, sanitize, format, overwrite string // methods; "" is refused as unsupported
		sampled                           bool
	}{
		"everything":       {nil, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"block sanitize":   {only(2, true, false, true, nvme.ReadsZero), "sanitize-block", "sanitize-block", "format-ses1", "overwrite-zero", false},
		"slow sanitize":    {only(4, true, true, true, nvme.ReadsZero), "format-ses2", "sanitize-overwrite", "format-ses2", "overwrite-zero", false},
		"promises nothing": {only(1, true, true, true, nvme.ReadsUnknown), "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", true},
		"reads as ones":    {only(2, true, true, true, nvme.ReadsFF), "sanitize-block", "sanitize-block", "format-ses2", "overwrite-zero", false},
		"format only":      {only(0, true, false, false, nvme.ReadsZero), "format-ses1", "", "format-ses1", "overwrite-zero", false},
		"write zeroes":     {only(0, false, false, true, nvme.ReadsUnknown), "write-zeroes", "", "", "overwrite-zero", false},
		"plain":            {only(0, false, false, false, nvme.ReadsUnknown), "overwrite-zero", "", "", "overwrite-zero", false},
		"4 KiB blocks":     {func(d *nvmefake.Drive) { d.Namespaces[1].Format = 1 }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"two namespaces":   {func(d *nvmefake.Drive) { d.AddNamespace(2, 3<<20) }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"odd size":         {func(d *nvmefake.Drive) { d.Namespaces[1].Bytes = 5<<20 + 3*512 }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"no TCG":           {func(d *nvmefake.Drive) { d.TCG = false }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"no security":      {func(d *nvmefake.Drive) { d.OACS &^= 1 }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"no estimates": {func(d *nvmefake.Drive) {
			d.EstimateCrypto, d.EstimateBlock, d.SanitizeTakes = 0xFFFFFFFF, 0, 9*time.Minute
		}, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"dual port, one used": {func(d *nvmefake.Drive) { d.CMIC, d.Namespaces[1].Shared = 3, true }, "sanitize-crypto", "sanitize-crypto", "format-ses2", "overwrite-zero", false},
		"QEMU": {func(d *nvmefake.Drive) {
			only(0, true, false, true, nvme.ReadsZero)(d)
			d.OACS, d.TCG = 1<<1|1<<3, false
		}, "format-ses1", "", "format-ses1", "overwrite-zero", false},
	} {
		for policy, method := range map[domain.WipePolicy]string{domain.WipeAuto: c.auto, domain.WipeSanitize: c.sanitize, domain.WipeFormat: c.format, domain.WipeOverwrite: c.overwrite} {
			if testing.Short() && policy != domain.WipeAuto {
				continue
			}
			t.Run(name+" "+policy.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newDrive(t, policy, c.setup)
					ev := d.erase()
					if method == "" {
						if ev.Reason != Unsupported {
							t.Fatalf("%+v, want %s", ev, Unsupported)
						}
						return
					}
					if ev.Result != domain.WipeVerified || ev.Method != method {
						t.Fatalf("%+v, want verified by %s", ev, method)
					}
					want := domain.CoverageAll
					if c.sampled && method != "overwrite-zero" {
						want = domain.CoverageSampled
					}
					if ev.Coverage != want || want == domain.CoverageAll && ev.BytesRead != ev.SizeBytes {
						t.Errorf("coverage %s, %d of %d bytes", ev.Coverage, ev.BytesRead, ev.SizeBytes)
					}
					d.wipe.Attempt++
					if again := d.erase(); again.Result != domain.WipeVerified {
						t.Errorf("a second wipe: %+v", again)
					}
				})
			})
		}
	}
}
