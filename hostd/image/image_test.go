package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// qcow2 is a header with a virtual size of 1 GiB, changed by edit.
func qcow2(edit func(h []byte)) []byte {
	h := make([]byte, 1024)
	copy(h, qcow2Magic)
	be := binary.BigEndian
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], 16)
	be.PutUint64(h[24:], 1<<30)
	if edit != nil {
		edit(h)
	}
	return h
}

func bootSector() []byte {
	h := make([]byte, 4096)
	h[510], h[511] = 0x55, 0xaa
	return h
}

func TestInspect(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	for name, c := range map[string]struct {
		head []byte
		want Info
		code string
	}{
		"qcow2":         {head: qcow2(nil), want: Info{QCOW2, 1 << 30}},
		"qcow2 v2":      {head: qcow2(func(h []byte) { be.PutUint32(h[4:], 2); be.PutUint64(h[72:], 4) }), want: Info{QCOW2, 1 << 30}},
		"raw":           {head: bootSector(), want: Info{Raw, 4096}},
		"backing file":  {head: qcow2(func(h []byte) { be.PutUint64(h[8:], 512); be.PutUint32(h[16:], 11) }), code: "image.backing_file"},
		"backing size":  {head: qcow2(func(h []byte) { be.PutUint32(h[16:], 11) }), code: "image.backing_file"},
		"external data": {head: qcow2(func(h []byte) { be.PutUint64(h[72:], 4) }), code: "image.external_data"},
		"corrupt":       {head: qcow2(func(h []byte) { be.PutUint64(h[72:], 2) }), code: "image.corrupt"},
		"encrypted":     {head: qcow2(func(h []byte) { be.PutUint32(h[32:], 2) }), code: "image.encrypted"},
		"version 4":     {head: qcow2(func(h []byte) { be.PutUint32(h[4:], 4) }), code: "image.format"},
		"cut short":     {head: qcow2(nil)[:60], code: "image.corrupt"},
		"vmdk":          {head: append([]byte("KDMV"), make([]byte, 1020)...), code: "image.format"},
		"no sector":     {head: bootSector()[:513], code: "image.format"},
		"empty":         {head: nil, code: "image.format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, c.head, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Inspect(path)
			var f *machine.Fault
			if errors.As(err, &f) {
				if f.Code != c.code || !f.Theirs {
					t.Errorf("fault %v (theirs: %v), want %s of theirs", f, f.Theirs, c.code)
				}
				return
			}
			if err != nil || c.code != "" || got != c.want {
				t.Errorf("got %+v, %v; want %+v, code %q", got, err, c.want, c.code)
			}
		})
	}
}

func TestWriteArguments(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, qcow2(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	var ran []string
	run := func(_ context.Context, name string, args ...string) ([]byte, error) {
		ran = append(ran, name+" "+strings.ReplaceAll(strings.Join(args, " "), path, "IMAGE"))
		if args[0] == "compare" {
			return nil, errors.New("content mismatch at offset 0")
		}
		return nil, nil
	}
	for name, c := range map[string]struct {
		target Target
		want   []string
	}{
		"file": {Target{Path: "/drive", Bytes: 2 << 30}, []string{
			"qemu-img convert -n -f qcow2 -O raw -t writeback IMAGE /drive",
			"qemu-img compare -f qcow2 -F raw IMAGE /drive",
		}},
		"drive": {Target{Path: "/dev/null", Bytes: 2 << 30, Device: true}, []string{
			"qemu-img convert -n -f qcow2 -O raw -t none -W -m 16 IMAGE /dev/null",
			"qemu-img compare --image-opts driver=qcow2,file.driver=file,file.filename=IMAGE driver=raw,size=1073741824,file.driver=host_device,file.filename=/dev/null,file.cache.direct=on",
		}},
		"wiped drive": {Target{Path: "/a,b", Bytes: 2 << 30, Device: true, Zero: true}, []string{
			"qemu-img convert -n -f qcow2 -O raw -t none -W -m 16 --target-is-zero IMAGE /a,b",
			"qemu-img compare --image-opts driver=qcow2,file.driver=file,file.filename=IMAGE driver=raw,size=1073741824,file.driver=file,file.filename=/a,,b,file.cache.direct=on",
		}},
	} {
		ran = nil
		err := Write(t.Context(), run, path, c.target)
		if diff := cmp.Diff(c.want, ran); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var f *machine.Fault
		if !errors.As(err, &f) || f.Code != "image.compare" || f.Theirs {
			t.Errorf("%s: a drive that differs: %v", name, err)
		}
	}
	ran = nil
	var f *machine.Fault
	if err := Write(t.Context(), run, path, Target{Path: "/drive", Bytes: 1 << 29}); !errors.As(err, &f) || f.Code != "disk.too_small" || len(ran) != 0 {
		t.Errorf("a drive too small: %v, ran %v", err, ran)
	}
}

// TestWriteForReal has qemu-img write a real image, and sees a single byte that is
// not as it was written.
func TestWriteForReal(t *testing.T) {
	t.Parallel()
	if missing := program.Missing("qemu-img"); len(missing) > 0 {
		t.Skip("SKIPPED: qemu-img is not installed")
	}
	dir := t.TempDir()
	raw, img, drive := filepath.Join(dir, "raw"), filepath.Join(dir, "img"), filepath.Join(dir, "drive")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	content[510], content[511] = 0x55, 0xaa
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(raw, 8<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := program.Execute(t.Context(), "qemu-img", "convert", "-c", "-O", "qcow2", raw, img); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{raw, img} {
		for _, zero := range []bool{false, true} {
			dirty := make([]byte, 16<<20)
			if !zero {
				copy(dirty[4<<20:], "what an earlier write left")
			}
			copy(dirty[12<<20:], "behind the image")
			if err := os.WriteFile(drive, dirty, 0o600); err != nil {
				t.Fatal(err)
			}
			target := Target{Path: drive, Bytes: 16 << 20, Device: true, Zero: zero}
			if err := Write(t.Context(), program.Execute, from, target); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(drive)
			if err != nil || !bytes.Equal(got[:1<<20], content) || len(bytes.Trim(got[1<<20:8<<20], "\x00")) != 0 {
				t.Fatalf("%s: the drive does not hold the image: %v", from, err)
			}
			flip := func(ctx context.Context, name string, args ...string) ([]byte, error) {
				out, err := program.Execute(ctx, name, args...)
				if f, ferr := os.OpenFile(drive, os.O_WRONLY, 0); ferr == nil && args[0] == "convert" {
					_, _ = f.WriteAt([]byte("X"), 7<<20)
					_ = f.Close()
				}
				return out, err
			}
			var f *machine.Fault
			if err := Write(t.Context(), flip, from, target); !errors.As(err, &f) || f.Code != "image.compare" {
				t.Errorf("%s: a byte that differs: %v", from, err)
			}
		}
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	s := &Seed{
		InstanceID: "vm_1", Hostname: "a-b", SSHKeys: []string{`ssh-ed25519 AAAA "me"`},
		UserData: []byte("#cloud-config\nhostname: other\n\xff"), ReadyPort: "org.gpuaas.ready.0",
	}
	path := filepath.Join(t.TempDir(), "seed.iso")
	for range 2 { // the second time replaces the first
		if err := WriteSeed(path, s); err != nil {
			t.Fatal(err)
		}
	}
	got := readSeed(t, path)
	want := map[string]string{
		"meta-data":   "instance-id: \"vm_1\"\nlocal-hostname: \"a-b\"\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n",
		"user-data":   string(s.UserData), // byte for byte
		"vendor-data": string(vendorData("org.gpuaas.ready.0", nil)),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	left, err := filepath.Glob(filepath.Dir(path) + "/*")
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSeedRefusals(t *testing.T) {
	t.Parallel()
	for code, s := range map[string]*Seed{
		"seed.user_data_too_large": {UserData: make([]byte, MaxUserDataBytes+1)},
		"seed.line_break":          {SSHKeys: []string{"a\nb"}},
	} {
		var f *machine.Fault
		if _, err := s.Files(); !errors.As(err, &f) || f.Code != code || !f.Theirs {
			t.Errorf("want %s, got %v", code, err)
		}
	}
	files, err := (&Seed{}).Files()
	if err != nil || !bytes.HasPrefix(files["user-data"], []byte("#cloud-config\n")) || files["vendor-data"] != nil {
		t.Errorf("an empty seed: %q, %v", files, err)
	}
}

// TestReadyScript runs the script of the vendor data.
func TestReadyScript(t *testing.T) {
	t.Parallel()
	text := string(vendorData("org.gpuaas.ready.0", []string{"ffff:0002", "ffff:0001"}))
	_, script, _ := strings.Cut(text, "\n\n#!/bin/sh\n")
	script, _, _ = strings.Cut(script, "--gpuaas-ready--")
	dir := t.TempDir()
	for i, id := range []string{"ffff:0001", "ffff:0001", "8086:29c0", "ffff:00011"} {
		d := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		vendor, device, _ := strings.Cut(id, ":")
		for name, v := range map[string]string{"vendor": vendor, "device": device} {
			if err := os.WriteFile(filepath.Join(d, name), []byte("0x"+v+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	port := filepath.Join(dir, "port")
	script = strings.NewReplacer("/dev/virtio-ports/org.gpuaas.ready.0", port, "/sys/bus/pci/devices", dir, ">/dev/null 2>&1 &", "").Replace(script)
	if err := os.WriteFile(port, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(port); err != nil || string(got) != "ready ffff:0001=2 ffff:0002=0\n" {
		t.Errorf("the guest said %q, %v", got, err)
	}
	if _, err := (&Seed{ReadyPort: "p", Devices: []string{"1; rm -rf /"}}).Files(); err == nil {
		t.Error("a device that is a command was taken")
	}
}

// readSeed reads all files of the image by their Rock Ridge names and checks the
// label.
func readSeed(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := file.OpenFromPath(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fs, err := iso9660.Read(b, 0, 0, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if l := strings.TrimRight(fs.Label(), "\x00 "); l != "cidata" {
		t.Errorf("label %q, want cidata", l)
	}
	entries, err := fs.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		f, err := fs.OpenFile("/"+e.Name(), os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		c, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(c)
	}
	return got
}
