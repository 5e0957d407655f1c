package emuhost

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Options say what host to boot.
type Options struct {
	// Dir holds the host's drives, its root disk and its console, which stay when it is
	// shut down: booting again with the same Dir and Topology is switching it on again.
	Dir string
	// Share is a folder that the host has at [SharePoint]. Empty: a folder in Dir.
	Share string
	// Topology is what hangs on which bus. Zero: [Default].
	Topology Topology
	// MemoryMiB is the host's memory. Zero: 1536, enough for hostd, libvirt and a guest.
	MemoryMiB int
	// Files are copied into the host at every power on, before its udev looks at a
	// device: from this machine's paths, by the host's.
	Files map[string]string
	// KernelArgs are added to the kernel's command line.
	KernelArgs []string
}

// SharePoint is where the host has Options.Share.
const SharePoint = "/mnt/share"

// Gateway is the address at which the host reaches the loopback interface of the
// machine outside: a server on 127.0.0.1:port there is Gateway:port here.
const Gateway = "10.0.2.2"

// image is the folder that deploy/emuhost/mkimage.sh made last.
func image() string {
	cache := os.Getenv("GPUAAS_CACHE")
	if cache == "" {
		home, _ := os.UserHomeDir()
		cache = filepath.Join(home, ".cache", "gpuaas")
	}
	return filepath.Join(cache, "emuhost", "current")
}

// Image is the path of a file of the image: "bare.elf" and "bare.img" are the small
// guest of deploy/emuhost/bare.
func Image(name string) string { return filepath.Join(image(), name) }

// Missing says why no emulated host can be booted here; "" if one can.
func Missing() string {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "the emulated host needs Linux on amd64"
	}
	for _, f := range []string{"kernel", "initrd", "root.ext4", "qemu", "bare.elf", "bare.img"} {
		if _, err := os.Stat(Image(f)); err != nil {
			return "the emulated host is not built: run make emuhost-image as root (" + err.Error() + ")"
		}
	}
	return ""
}

func (o *Options) defaults() error {
	if why := Missing(); why != "" {
		return errors.New(why)
	}
	if o.Dir == "" {
		return errors.New("emuhost: Options.Dir is empty: name a folder for its drives")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	o.Dir = dir
	if o.Share == "" {
		o.Share = filepath.Join(o.Dir, "share")
	}
	if o.Share, err = filepath.Abs(o.Share); err != nil {
		return err
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 1536
	}
	if o.MemoryMiB < 512 {
		return fmt.Errorf("emuhost: %d MiB of memory is too little: at least 512", o.MemoryMiB)
	}
	if len(o.Topology.Ports) == 0 {
		o.Topology = Default()
	}
	if err := o.Topology.validate(); err != nil {
		return err
	}
	return o.share()
}

// filesBefore is the folder of the share whose content becomes the host's.
const filesBefore = "before-udev"

// share makes the shared folder, with the files that go into the host.
func (o *Options) share() error {
	err := os.MkdirAll(o.Share, 0o755)
	for to, from := range o.Files {
		to = filepath.Join(o.Share, filesBefore, to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = copyFile(from, to)
		}
	}
	return err
}

// copyFile copies a file with its mode.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(info.Mode().Perm()), out.Close())
}
