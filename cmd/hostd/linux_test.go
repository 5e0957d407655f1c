package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/machine/linux"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

// A host that has nvidia-smi is asked by it who its GPUs are.
func TestNvidiaSMIIsAsked(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	var c linuxConfig
	o, err := c.options(t.TempDir(), domain.HostID{}, slog.New(slog.DiscardHandler))
	if err != nil || o.Discovery.GPUFacts != nil {
		t.Fatalf("without the program: asked %v, %v", o.Discovery.GPUFacts != nil, err)
	}
	script := "#!/bin/sh\necho 'GPU 00000000:19:00.0'\necho '  Serial Number : 1654923000123'\necho '  Module ID : 4'\n"
	if err := os.WriteFile(filepath.Join(bin, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if o, err = c.options(t.TempDir(), domain.HostID{}, slog.New(slog.DiscardHandler)); err != nil || o.Discovery.GPUFacts == nil {
		t.Fatalf("with it: %v", err)
	}
	got, err := o.Discovery.GPUFacts(t.Context())
	if f := got[pci.Address{Bus: 0x19}]; err != nil || f.Serial != "1654923000123" || f.ModuleID != 4 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A check before hostd ran sees no virtual function, and says that they will be made.
func TestMissingVFs(t *testing.T) {
	t.Parallel()
	const pf, vf = "0000:03:00.0", "0000:03:10.0"
	tree := pcitest.New(t)
	tree.Add(pcitest.Function{Address: pf, IDs: "8086:10c9", Class: pcitest.ClassNIC, TotalVFs: 8})
	address, err := pci.Parse(pf)
	if err != nil {
		t.Fatal(err)
	}
	says := func(want uint16, words string) {
		t.Helper()
		var out strings.Builder
		o := linux.Options{VFs: map[pci.Address]uint16{address: want}, Discovery: discovery.Config{Sys: tree.Dir}}
		if err := missingVFs(o, &out); err != nil || (out.Len() == 0) != (words == "") || !strings.Contains(out.String(), words) {
			t.Errorf("of %d: %q, %v; want %q", want, &out, err, words)
		}
	}
	says(2, "has 0, want 2: hostd makes them")
	says(9, "can have 1 to 8, not 9")
	tree.AddVF(pf, pcitest.Function{Address: vf, IDs: "8086:10ca", Class: pcitest.ClassNIC})
	says(1, "")
	says(2, "has 1, want 2: take them away first")
	tree.Remove("bus/pci/devices/" + pf)
	if err := missingVFs(linux.Options{VFs: map[pci.Address]uint16{address: 1}, Discovery: discovery.Config{Sys: tree.Dir}}, io.Discard); err == nil {
		t.Error("a function that is not there has its virtual functions")
	}
}
