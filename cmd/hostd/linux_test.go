package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
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
