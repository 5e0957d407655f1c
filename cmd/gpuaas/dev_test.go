package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A lab without --images takes what make lab-image built, or says that it is to be
// built.
func TestLabImages(t *testing.T) {
	home, cache := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GPUAAS_CACHE", "")
	missing := func(dir string) {
		t.Helper()
		if _, err := labImages(); err == nil || !strings.Contains(err.Error(), "make lab-image") || !strings.Contains(err.Error(), dir) {
			t.Errorf("without an image: %v", err)
		}
	}
	built := func(dir string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		missing(dir)
		if err := os.WriteFile(filepath.Join(dir, "tiny.qcow2"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := labImages(); err != nil || got != dir {
			t.Errorf("%q %v, want %q", got, err, dir)
		}
	}
	missing(filepath.Join(home, ".cache", "gpuaas", "images"))
	built(filepath.Join(home, ".cache", "gpuaas", "images"))
	t.Setenv("GPUAAS_CACHE", cache)
	built(filepath.Join(cache, "images"))
	t.Setenv("GPUAAS_CACHE", "")
	c := devCommand()
	c.SetArgs([]string{"--machine", "lab", "--data-dir", t.TempDir()})
	t.Setenv("HOME", t.TempDir())
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), "make lab-image") {
		t.Errorf("gpuaas dev --machine lab: %v", err)
	}
}
