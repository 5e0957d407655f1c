package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// seedBytes is the room given to a seed; cloud-init's user data is at most 16 KiB
// on other clouds, and 64 KiB here.
const seedBytes = 2 << 20

// MaxUserDataBytes bounds a tenant's user data.
const MaxUserDataBytes = 64 << 10

// Seed is the content of a cloud-init NoCloud seed
// (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html).
type Seed struct {
	InstanceID string // the VM's id: cloud-init runs its once-per-instance parts again when it changes
	Hostname   string
	SSHKeys    []string // authorized_keys lines, for the image's default user
	UserData   []byte   // as the tenant gave it; empty: an empty cloud-config
	ReadyPort  string   // virtio-serial port to say ready on; "": none
	Devices    []string // PCI ids, "10de:2330", that the guest counts when it says ready
}

// Files renders the seed's files. Keys travel in the meta-data and the ready
// script in the vendor-data, so that the user data is the tenant's byte for byte
// and can switch both off.
func (s *Seed) Files() (map[string][]byte, error) {
	if len(s.UserData) > MaxUserDataBytes {
		return nil, refuse("seed.user_data_too_large", "user data has %d bytes, at most %d", len(s.UserData), MaxUserDataBytes)
	}
	for _, id := range s.Devices {
		if !pciID.MatchString(id) {
			return nil, fmt.Errorf("seed: %q is no PCI id", id)
		}
	}
	for _, v := range append([]string{s.InstanceID, s.Hostname}, s.SSHKeys...) {
		if strings.ContainsAny(v, "\n\r\x00") {
			return nil, refuse("seed.line_break", "a name or key with a line break")
		}
	}
	var meta bytes.Buffer
	fmt.Fprintf(&meta, "instance-id: %s\nlocal-hostname: %s\n", quote(s.InstanceID), quote(s.Hostname))
	if len(s.SSHKeys) > 0 {
		meta.WriteString("public-keys:\n")
		for _, k := range s.SSHKeys {
			fmt.Fprintf(&meta, "  - %s\n", quote(k))
		}
	}
	user := s.UserData
	if len(user) == 0 {
		user = []byte("#cloud-config\n{}\n")
	}
	files := map[string][]byte{"meta-data": meta.Bytes(), "user-data": user}
	if s.ReadyPort != "" {
		files["vendor-data"] = vendorData(s.ReadyPort, s.Devices)
	}
	return files, nil
}

var pciID = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{4}$`)

// vendorData has cloud-init install a script that runs at the end of every boot
// and says ready, with how many of each device the guest sees ("ready
// 10de:2330=8"). It waits in the background: a write blocks while no host listens.
func vendorData(port string, devices []string) []byte {
	devices = slices.Sorted(slices.Values(devices))
	script := "#!/bin/sh\n" +
		"p=/dev/virtio-ports/" + port + "\n" +
		"[ -e \"$p\" ] || exit 0\n" +
		"said=ready\n"
	if len(devices) > 0 {
		script += "seen=$(for d in /sys/bus/pci/devices/*; do read -r v < \"$d/vendor\"; read -r i < \"$d/device\"; echo \"${v#0x}:${i#0x}\"; done)\n" +
			"for id in " + strings.Join(devices, " ") + "; do said=\"$said $id=$(echo \"$seen\" | grep -c \"^$id\\$\")\"; done\n"
	}
	script += "(echo \"$said\" > \"$p\") </dev/null >/dev/null 2>&1 &\n" +
		"exit 0\n"
	return []byte("Content-Type: multipart/mixed; boundary=\"gpuaas-ready\"\n" +
		"MIME-Version: 1.0\n\n" +
		"--gpuaas-ready\n" +
		"Content-Type: text/x-shellscript-per-boot; charset=\"us-ascii\"\n" +
		"Content-Disposition: attachment; filename=\"gpuaas-ready\"\n\n" +
		script +
		"--gpuaas-ready--\n")
}

// quote is a YAML double-quoted string: a JSON string is one.
func quote(s string) string {
	b, _ := json.Marshal(s) // a string cannot fail
	return string(b)
}

// WriteSeed makes the ISO 9660 image with volume label cidata and Rock Ridge
// names (cloud-init looks for user-data, which ISO names alone cannot spell) at
// path, in one step: a crash leaves the old seed or the new one.
func WriteSeed(path string, s *Seed) (err error) {
	files, err := s.Files()
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("seed: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	work, err := os.MkdirTemp(filepath.Dir(path), "seed-")
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer os.RemoveAll(work)
	b, err := file.CreateFromPath(tmp, seedBytes)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer func() { _ = b.Close() }()
	fs, err := iso9660.Create(b, seedBytes, 0, 2048, work)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data"} {
		if c, ok := files[name]; ok {
			if err := os.WriteFile(filepath.Join(fs.Workspace(), name), c, 0o600); err != nil {
				return fmt.Errorf("seed: %w", err)
			}
		}
	}
	if err := fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: "cidata"}); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	f, err := b.Sys()
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Sync()); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return os.Rename(tmp, path)
}
